use super::handshake::*;
use super::transmission::*;
use super::*;
use proptest::prelude::*;

#[test]
fn greeting_golden() {
    let bytes = greeting(handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES);
    assert_eq!(&bytes, b"NBDMAGICIHAVEOPT\x00\x03");
    assert_eq!(parse_greeting(&bytes), Ok(3));
    // What an oldstyle server sends instead.
    assert!(matches!(
        parse_greeting(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0"),
        Err(ProtoError::Magic { .. })
    ));
}

#[test]
fn option_golden() {
    let mut out = Vec::new();
    put_option(&mut out, option::GO, b"ab");
    assert_eq!(out, b"IHAVEOPT\0\0\0\x07\0\0\0\x02ab");
    assert_eq!(OptionHeader::parse(&out), Ok(OptionHeader { option: 7, len: 2 }));

    let mut out = Vec::new();
    put_option_reply(&mut out, option::GO, option_reply::ERR_UNKNOWN, b"no");
    assert_eq!(out, b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x06\0\0\0\x02no");
    assert_eq!(
        OptionReplyHeader::parse(&out),
        Ok(OptionReplyHeader { option: 7, kind: option_reply::ERR_UNKNOWN, len: 2 })
    );
}

#[test]
fn info_golden() {
    let request = InfoRequest { name: "web".into(), wanted: vec![info::BLOCK_SIZE] };
    let bytes = request.build();
    assert_eq!(bytes, b"\0\0\0\x03web\0\x01\0\x03");
    assert_eq!(InfoRequest::parse(&bytes), Ok(request));

    let reply = Info::Export { size: 1 << 20, flags: 0x0103 };
    assert_eq!(reply.build(), b"\0\0\0\0\0\0\0\x10\0\0\x01\x03");
    let reply = Info::BlockSize { minimum: 1, preferred: 4096, largest: 1 << 25 };
    assert_eq!(reply.build(), b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0");
}

#[test]
fn meta_golden() {
    let request = MetaRequest { name: "d".into(), queries: vec!["base:".into(), String::new()] };
    let bytes = request.build();
    assert_eq!(bytes, b"\0\0\0\x01d\0\0\0\x02\0\0\0\x05base:\0\0\0\0");
    assert_eq!(MetaRequest::parse(&bytes), Ok(request));
    assert_eq!(parse_meta_context(b"\0\0\0\x01base:allocation"), Ok((1, BASE_ALLOCATION.into())));
    assert_eq!(meta_context(1, BASE_ALLOCATION), b"\0\0\0\x01base:allocation");
}

#[test]
fn request_golden() {
    let request = Request { flags: 1, command: command::WRITE, cookie: 0x0102, offset: 4096, len: 512 };
    let bytes = request.build();
    assert_eq!(&bytes, b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x10\0\0\0\x02\0");
    assert_eq!(Request::parse(&bytes), Ok(request));
}

#[test]
fn reply_golden() {
    let ok = simple_reply(7, None);
    assert_eq!(&ok, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x07");
    let bad = simple_reply(7, Some(Errno::NoSpace));
    assert_eq!(&bad, b"\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\0\0\0\x07");
    assert_eq!(ReplyHeader::parse(&bad), Ok(ReplyHeader::Simple { error: Some(Errno::NoSpace), cookie: 7 }));

    let hole = hole_chunk(chunk::FLAG_DONE, 7, 4096, 512);
    assert_eq!(
        &hole,
        b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x07\0\0\0\x0c\0\0\0\0\0\0\x10\0\0\0\x02\0"
    );
    let data = data_chunk_prefix(0, 7, 4096, 2);
    assert_eq!(&data, b"\x66\x8e\x33\xef\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\x0a\0\0\0\0\0\0\x10\0");
    let error = error_chunk(7, Errno::Io, "bad", Some(4096));
    assert_eq!(
        error,
        b"\x66\x8e\x33\xef\0\x01\x80\x02\0\0\0\0\0\0\0\x07\0\0\0\x11\0\0\0\x05\0\x03bad\0\0\0\0\0\0\x10\0"
    );
    assert_eq!(parse_error(&error[CHUNK_HEADER_LEN..]), Ok((Errno::Io, "bad".into())));
    let status = block_status_chunk(7, 1, &[(4096, 3), (512, 0)]);
    assert_eq!(
        status,
        b"\x66\x8e\x33\xef\0\x01\0\x05\0\0\0\0\0\0\0\x07\0\0\0\x14\0\0\0\x01\0\0\x10\0\0\0\0\x03\0\0\x02\0\0\0\0\0"
    );
    assert_eq!(parse_block_status(&status[CHUNK_HEADER_LEN..]), Ok((1, vec![(4096, 3), (512, 0)])));
}

#[test]
fn lengths_that_lie_are_refused() {
    assert_eq!(InfoRequest::parse(b"\xff\xff\xff\xffx"), Err(ProtoError::TooLong(MAX_STRING)));
    assert_eq!(InfoRequest::parse(b"\0\0\0\x05web\0\0"), Err(ProtoError::Short));
    assert_eq!(InfoRequest::parse(b"\0\0\0\x03web\0\x02\0\0"), Err(ProtoError::Short));
    assert_eq!(InfoRequest::parse(b"\0\0\0\x03web\0\0\0"), Err(ProtoError::Trailing));
    assert_eq!(InfoRequest::parse(b"\0\0\0\x01\xff\0\0"), Err(ProtoError::NotUtf8));
    assert_eq!(MetaRequest::parse(b"\0\0\0\0\xff\xff\xff\xff"), Err(ProtoError::Short));
    assert_eq!(parse_block_status(b"\0\0\0\x01"), Err(ProtoError::Short));
    assert_eq!(parse_block_status(b"\0\0\0\x01\0\0\0\0\0\0\0\0"), Err(ProtoError::Value(0)));
    assert_eq!(parse_error(b"\0\0\0\x05\0\x09x"), Err(ProtoError::Short));
}

#[test]
fn error_texts() {
    let magic = ProtoError::Magic { found: 0x1234, expected: REQUEST_MAGIC.into() };
    assert_eq!(magic.to_string(), "wrong magic 0x1234 where 0x25609513 belongs");
    assert_eq!(Errno::Shutdown.to_string(), "ESHUTDOWN (shutting down)");
    assert_eq!(Errno::from_u32(9999), Errno::Invalid);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_greeting(&bytes);
        let _ = OptionHeader::parse(&bytes);
        let _ = OptionReplyHeader::parse(&bytes);
        let _ = InfoRequest::parse(&bytes);
        let _ = Info::parse(&bytes);
        let _ = MetaRequest::parse(&bytes);
        let _ = parse_meta_context(&bytes);
        let _ = Request::parse(&bytes);
        let _ = ReplyHeader::len_of(&bytes);
        let _ = ReplyHeader::parse(&bytes);
        let _ = parse_error(&bytes);
        let _ = parse_block_status(&bytes);
    }

    #[test]
    fn requests_come_back(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) {
        let r = Request { flags, command, cookie, offset, len };
        prop_assert_eq!(Request::parse(&r.build()), Ok(r));
    }

    #[test]
    fn infos_come_back(size: u64, flags: u16, text in "[a-z\u{e9}]{0,40}", a: u32, b: u32, c: u32) {
        for i in [
            Info::Export { size, flags },
            Info::Name(text.clone()),
            Info::Description(text),
            Info::BlockSize { minimum: a, preferred: b, largest: c },
        ] {
            prop_assert_eq!(Info::parse(&i.build()), Ok(i));
        }
    }
}

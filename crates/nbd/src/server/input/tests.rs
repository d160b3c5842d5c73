use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// Sends `data` from another thread while the test receives it.
fn feeding(data: Vec<u8>) -> (Transport, std::thread::JoinHandle<()>) {
    let (mut far, near) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || far.write_all(&data).unwrap());
    (Transport::new(near.into()), sender)
}

fn take(input: &mut Input, transport: &Transport, n: usize) -> Bytes {
    while !input.has(n) {
        assert!(input.receive(transport, n).unwrap());
    }
    input.take(n)
}

#[test]
fn parts_that_are_kept_are_never_written_again() {
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (transport, sender) = feeding(data.clone());
    let mut input = Input::default();
    let (mut at, mut kept) = (0, Vec::new());
    for (i, n) in [28, 4096, 70_000, 1, 262_144, 200_000, 28, 65_536].iter().cycle().enumerate() {
        if at + n > data.len() {
            break;
        }
        let part = take(&mut input, &transport, *n);
        assert_eq!(part, data[at..at + n], "at {at}");
        // Some are let go at once, as a device does that copies them.
        if i % 3 != 0 {
            kept.push((at, part));
        }
        at += n;
    }
    for (at, part) in kept {
        assert_eq!(part, data[at..at + part.len()], "kept from {at}");
    }
    drop(transport);
    let _ = sender.join();
}

#[test]
fn a_buffer_nobody_holds_is_used_again() {
    let (transport, sender) = feeding(vec![7; 8 * SIZE]);
    let mut input = Input::default();
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..8 * SIZE / 4096 {
        let part = take(&mut input, &transport, 4096);
        places.insert(part.as_ptr() as usize);
    }
    // All within one buffer: were each refill a new one, there would be eight times as many places.
    let (low, high) = (places.first().unwrap(), places.last().unwrap());
    assert!(high - low < SIZE, "{} bytes apart", high - low);
    assert!(input.full.is_empty());
    sender.join().unwrap();
}

#[test]
fn buffers_kept_for_later_are_few() {
    let total = (KEPT + 8) * SIZE;
    let (transport, sender) = feeding(vec![7; total]);
    let mut input = Input::default();
    let held: Vec<Bytes> = (0..total / 4096).map(|_| take(&mut input, &transport, 4096)).collect();
    assert_eq!(input.full.len(), KEPT);
    drop(held);
    assert!(input.full.iter_mut().all(|b| b.try_reclaim(SIZE)), "all can be used again");
    sender.join().unwrap();
}

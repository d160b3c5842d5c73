//! Serves a file, or a block device, on a Unix socket until it is interrupted:
//! `cargo run --release --example serve_file -- FILE SOCKET`.

use lifeboat_base::SystemClock;
use lifeboat_block::FileDevice;
use lifeboat_nbd::{Exports, Server, ServerSettings};
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, socket] = args.as_slice() else {
        return Err("usage: serve_file FILE SOCKET".into());
    };
    let device = Arc::new(FileDevice::open(Path::new(file), false)?);
    let exports = Exports::single(device);
    let settings = ServerSettings::default();
    let _server = Server::listen_unix(Path::new(socket), exports, settings, Arc::new(SystemClock))?;
    loop {
        std::thread::park();
    }
}

//! `lifeboat`, the program; see the library.

fn main() -> std::process::ExitCode {
    lifeboat::main()
}

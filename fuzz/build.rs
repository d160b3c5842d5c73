//! Brings the reader of `site.toml` here. It lives in a program, which nothing can import; its source is taken
//! as it is, without its own tests.

use std::path::Path;
use std::{env, fs};

const FROM: &str = "../crates/lifeboat/src";

fn main() -> std::io::Result<()> {
    let mut out = String::new();
    for (file, modules) in [("failure.rs", "failure"), ("serve/config.rs", "config")] {
        let path = Path::new(FROM).join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        let source = fs::read_to_string(path)?.replace("#[cfg(test)]\nmod tests;", "");
        let source: Vec<&str> = source.lines().filter(|line| !line.starts_with("//!")).collect();
        let module = format!("#[allow(dead_code)]\npub mod {modules} {{\n{}\n}}\n", source.join("\n"));
        out += &match modules {
            "config" => format!(
                "mod serve {{\npub mod state {{ pub const CONFIG: &str = \"site.toml\"; }}\n{module}}}\n"
            ),
            _ => module,
        };
    }
    fs::write(Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("site_toml.rs"), out)
}

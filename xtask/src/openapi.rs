//! The API's description in the repository is the one the code makes.

use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

pub fn run(check: bool) -> Result<()> {
    let root = crate::root()?;
    let path = root.join("docs/openapi.json");
    let out = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["run", "--quiet", "--locked", "--package", "lifeboat", "--", "openapi"])
        .output()
        .context("cannot run lifeboat openapi")?;
    if !out.status.success() {
        bail!("lifeboat openapi failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let made = String::from_utf8(out.stdout).context("lifeboat openapi printed no text")?;
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if made == kept {
        println!("docs/openapi.json is up to date");
    } else if check {
        let line = 1 + made.lines().zip(kept.lines()).take_while(|(a, b)| a == b).count();
        bail!("docs/openapi.json differs from the code at line {line}; run: cargo xtask openapi");
    } else {
        fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
        println!("docs/openapi.json written");
    }
    Ok(())
}

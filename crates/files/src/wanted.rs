//! Which part of a tree is meant.

use crate::FilesError;
use crate::reader::components;
use std::collections::BTreeMap;

/// Paths as names from the root on.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Everything from here on.
    pub whole: bool,
    pub children: BTreeMap<Vec<u8>, Wanted>,
}

impl Wanted {
    /// # Errors
    /// A path that is none.
    pub fn of(paths: &[Vec<u8>]) -> Result<Self, FilesError> {
        let mut root = Self::default();
        for path in paths {
            let mut here = &mut root;
            for part in components(path)? {
                here = here.children.entry(part.to_vec()).or_default();
            }
            here.whole = true;
        }
        Ok(root)
    }
}

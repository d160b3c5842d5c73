//! What a new site needs to know, kept in the vault.
//!
//! Invariants: each one is an object of its own under the next number, put there once; the highest that can be read counts;
//! older ones go only after a newer one is in place.

use super::{SiteVault, vault_error};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{Catalogue, ErrorCode};
use lifeboat_vault::store::Put;
use lifeboat_vault::{ObjectName, ObjectType, Vault, VaultError};
use std::ops::ControlFlow;

const PREFIX: &str = "catalogue/";
/// How many are kept.
const KEPT: usize = 5;

fn object(number: u32) -> Result<ObjectName, VaultError> {
    ObjectName::new(format!("{PREFIX}{number:08}"))
        .ok_or_else(|| VaultError::Invalid(format!("catalogue {number}")))
}

/// Numbers of those that are there, ascending.
fn numbers(vault: &Vault) -> Result<Vec<u32>, VaultError> {
    let mut numbers = Vec::new();
    vault.store().list(PREFIX, &mut |o| {
        numbers.extend(o.name.as_str().strip_prefix(PREFIX).and_then(|n| n.parse::<u32>().ok()));
        ControlFlow::Continue(())
    })?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Without when it was written: what makes two of them differ.
fn content(catalogue: &Catalogue) -> Result<serde_json::Value, PortError> {
    let mut value = serde_json::to_value(catalogue)
        .map_err(|e| PortError::new(ErrorCode::Internal, format!("the catalogue cannot be written: {e}")))?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("written");
    }
    Ok(value)
}

impl SiteVault {
    /// See [`VaultPort::put_catalogue`](lifeboat_api::port::VaultPort::put_catalogue). Blocks.
    pub(crate) fn put_catalogue(&self, catalogue: &Catalogue) -> Result<(), PortError> {
        let vault = self.open()?;
        let new = content(catalogue)?;
        let mut written = self.written.lock();
        if written.is_none()
            && let Some(there) = self.catalogue()?
        {
            *written = Some(content(&there)?);
        }
        if written.as_ref() == Some(&new) {
            return Ok(());
        }
        let text =
            serde_json::to_vec(catalogue).map_err(|e| PortError::new(ErrorCode::Internal, e.to_string()))?;
        put(&vault, &text).map_err(|e| vault_error(&e))?;
        *written = Some(new);
        Ok(())
    }

    /// See [`VaultPort::catalogue`](lifeboat_api::port::VaultPort::catalogue). Blocks.
    pub(crate) fn catalogue(&self) -> Result<Option<Catalogue>, PortError> {
        let vault = self.open()?;
        let mut damaged = None;
        for number in numbers(&vault).map_err(|e| vault_error(&e))?.into_iter().rev() {
            let name = object(number).map_err(|e| vault_error(&e))?;
            match vault.open_object(&name, ObjectType::Catalogue) {
                Ok(text) => match serde_json::from_slice(&text) {
                    Ok(catalogue) => return Ok(Some(catalogue)),
                    Err(e) => {
                        tracing::error!("{name} is of another version of Lifeboat: {e}");
                        damaged
                            .get_or_insert(VaultError::Invalid(format!("{name} cannot be understood: {e}")));
                    }
                },
                Err(e @ VaultError::Damaged { .. }) => {
                    tracing::error!("{e}; an older one is read");
                    damaged.get_or_insert(e);
                }
                Err(VaultError::Store(lifeboat_vault::StoreError::NotFound(_))) => {}
                Err(e) => return Err(vault_error(&e)),
            }
        }
        damaged.map_or(Ok(None), |e| Err(vault_error(&e)))
    }
}

fn put(vault: &Vault, text: &[u8]) -> Result<(), VaultError> {
    let there = numbers(vault)?;
    let mut number = there.last().map_or(1, |n| n + 1);
    // Somebody else's is not taken for one's own: each has a salt.
    while vault.put_object(&object(number)?, ObjectType::Catalogue, text)? == Put::Exists {
        number += 1;
    }
    for old in there.iter().take((there.len() + 1).saturating_sub(KEPT)) {
        // It is written all the same; the next one tries again.
        if let Err(e) = vault.store().delete(&object(*old)?) {
            tracing::warn!("an old catalogue stays in the vault for now: {e}");
            break;
        }
    }
    Ok(())
}

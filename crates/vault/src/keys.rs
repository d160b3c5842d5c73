//! The vault's keys.
//!
//! ```text
//! site's vault key ──seals──> keys/NNNNNNNN: id key (for ever), data keys by generation
//!                                data key ──derive(pack id)──────────> frames and directory of a pack
//!                                        └──derive(type, salt)───────> a sealed object
//! ```
//! The object with the highest number counts. A rotation writes the next one: until it is there the old one holds, and
//! whatever was sealed with an older generation stays readable.

use crate::error::VaultError;
use crate::id::{ChunkId, ObjectName, PackId, VaultId};
use crate::object::{self, ObjectType};
use crate::store::{Part, Put, Store};
use bytes::Bytes;
use lifeboat_base::{Entropy, Secret, WallTime};
use prost::Message;
use std::ops::ControlFlow;

/// Most generations of data keys.
pub const MAX_GENERATIONS: usize = 1000;
/// Longest object that holds keys, in bytes.
const MAX_OBJECT: u64 = 1 << 20;

/// A key content is sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    /// From 1.
    pub generation: u32,
    pub key: Secret,
    pub created: WallTime,
}

/// All keys of one vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultKeys {
    pub vault: VaultId,
    /// Names chunks. Never changes: ids would not be found again.
    pub id: Secret,
    /// In order; the last seals what is new.
    pub data: Vec<DataKey>,
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    data: Vec<Data>,
}

#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(uint64, tag = "3")]
    created: u64,
}

impl VaultKeys {
    pub fn create(vault: VaultId, now: WallTime, entropy: &dyn Entropy) -> Self {
        let data = vec![DataKey { generation: 1, key: Secret::random(entropy), created: now }];
        Self { vault, id: Secret::random(entropy), data }
    }

    /// Adds a generation.
    ///
    /// # Errors
    /// When there are [`MAX_GENERATIONS`].
    pub fn rotate(&mut self, now: WallTime, entropy: &dyn Entropy) -> Result<(), VaultError> {
        if self.data.len() >= MAX_GENERATIONS {
            return Err(VaultError::Invalid(format!("the key was rotated {MAX_GENERATIONS} times already")));
        }
        let generation = self.generation() + 1;
        self.data.push(DataKey { generation, key: Secret::random(entropy), created: now });
        Ok(())
    }

    /// The newest one.
    pub fn generation(&self) -> u32 {
        self.data.last().map_or(0, |d| d.generation)
    }

    pub(crate) fn data(&self, generation: u32) -> Option<Secret> {
        self.data.iter().find(|d| d.generation == generation).map(|d| d.key.clone())
    }

    /// The newest key with its generation.
    pub(crate) fn newest(&self) -> (u32, Secret) {
        self.data.last().map_or((0, self.id.clone()), |d| (d.generation, d.key.clone()))
    }

    /// The key of one pack.
    pub(crate) fn pack(&self, generation: u32, pack: &PackId) -> Option<Secret> {
        Some(self.data(generation)?.derive("lifeboat vault 1 pack", &[&pack.0]))
    }

    /// The id of content, from its BLAKE3.
    pub fn chunk_id(&self, content: &blake3::Hash) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.id.0, content.as_bytes()).as_bytes())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let data = self.data.iter().map(|d| Data {
            generation: d.generation,
            key: d.key.0.to_vec(),
            created: d.created.0,
        });
        Body { id: self.id.0.to_vec(), data: data.collect() }.encode_to_vec()
    }

    pub(crate) fn decode(vault: VaultId, bytes: &[u8]) -> Option<Self> {
        let secret = |bytes: &[u8]| Some(Secret(bytes.try_into().ok()?));
        let body = Body::decode(bytes).ok()?;
        let data: Vec<DataKey> = body
            .data
            .iter()
            .map(|d| {
                Some(DataKey { generation: d.generation, key: secret(&d.key)?, created: WallTime(d.created) })
            })
            .collect::<Option<_>>()?;
        let counted = data.iter().zip(1..).all(|(d, n)| d.generation == n);
        let right = counted && !data.is_empty() && data.len() <= MAX_GENERATIONS;
        right.then_some(Self { vault, id: secret(&body.id)?, data })
    }

    /// Puts the keys into the vault as object `number`, sealed under the site's key.
    ///
    /// # Errors
    /// `Fenced` when somebody else was first; what the store says.
    pub(crate) fn store(
        &self,
        store: &dyn Store,
        site: &Secret,
        number: u32,
        entropy: &dyn Entropy,
    ) -> Result<(), VaultError> {
        let name = object_name(number)?;
        let key = wrapping(site, &self.vault);
        let sealed: Bytes =
            object::seal(ObjectType::Keys, (0, &key), &self.vault, &name, &self.encode(), entropy);
        match store.put_new(&name, sealed)? {
            Put::Created => Ok(()),
            Put::Exists => Err(VaultError::Fenced(format!("{name} was written by somebody else meanwhile"))),
        }
    }

    /// The newest keys in the vault that one of `sites` opens, and their object's number. Of several site keys, as there
    /// are in the middle of a rotation, any may be the right one.
    ///
    /// # Errors
    /// `WrongKey` when none opens the newest; `Damaged`.
    pub(crate) fn load(
        store: &dyn Store,
        vault: VaultId,
        sites: &[Secret],
    ) -> Result<(Self, u32), VaultError> {
        let mut newest = 0;
        store.list("keys/", &mut |o| {
            let number = o.name.as_str().strip_prefix("keys/").and_then(|n| n.parse().ok());
            newest = newest.max(number.unwrap_or(0));
            ControlFlow::Continue(())
        })?;
        if newest == 0 {
            return Err(VaultError::damaged("keys", "there is no object with the vault's keys"));
        }
        let name = object_name(newest)?;
        let sealed = read_bounded(store, &name, MAX_OBJECT)?;
        object::Header::decode(&sealed).map_err(|why| VaultError::damaged(&name, why))?;
        for site in sites {
            let key = wrapping(site, &vault);
            let Ok((ObjectType::Keys, text)) =
                object::open(&vault, &name, &sealed, |generation| (generation == 0).then_some(key))
            else {
                continue;
            };
            let keys = Self::decode(vault, &text)
                .ok_or_else(|| VaultError::damaged(&name, "it holds no keys this version understands"))?;
            return Ok((keys, newest));
        }
        Err(VaultError::WrongKey)
    }
}

impl VaultKeys {
    /// Whether these bytes are keys of the vault that one of `sites` opens.
    ///
    /// # Errors
    /// `Damaged`, also where none does: a flipped bit looks the same.
    pub(crate) fn verify(
        vault: VaultId,
        sites: &[Secret],
        name: &ObjectName,
        sealed: &[u8],
    ) -> Result<(), VaultError> {
        object::Header::decode(sealed).map_err(|why| VaultError::damaged(name, why))?;
        for site in sites {
            let key = wrapping(site, &vault);
            if let Ok((ObjectType::Keys, text)) =
                object::open(&vault, name, sealed, |generation| (generation == 0).then_some(key))
                && Self::decode(vault, &text).is_some()
            {
                return Ok(());
            }
        }
        Err(VaultError::damaged(
            name,
            "the site's key does not open it: it was changed, or sealed with another one",
        ))
    }
}

fn wrapping(site: &Secret, vault: &VaultId) -> Secret {
    site.derive("lifeboat vault 1 keys", &[&vault.0])
}

fn object_name(number: u32) -> Result<ObjectName, VaultError> {
    ObjectName::new(format!("keys/{number:08}"))
        .ok_or_else(|| VaultError::Invalid(format!("{number} is no number of keys")))
}

/// A whole object that is known to be small.
pub(crate) fn read_bounded(store: &dyn Store, name: &ObjectName, limit: u64) -> Result<Bytes, VaultError> {
    let bytes = store.get(name, Part::Range { offset: 0, len: limit + 1 })?;
    if bytes.len() as u64 > limit {
        return Err(VaultError::damaged(name, "it is longer than it can be"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;

//! Entries of the manifest: files, directories, their extents, and the pages that hold them (container
//! section 7). Used by sealing and by the reader.

use crate::cbor::{Reader, Writer};
use crate::manifest::{Row, page_header};
use crate::{Result, VaultError};
use std::collections::BTreeMap;

/// Most entries in one page.
pub(crate) const MAX_PAGE_ENTRIES: usize = 65_536;
/// Most extents of one file.
const MAX_EXTENTS: usize = 1 << 22;
/// CBOR keys that every file has: 1 to 6.
const FILE_KEYS: u16 = 0b111_1110;
/// CBOR keys that every directory has: 1 and 2.
const DIRECTORY_KEYS: u16 = 0b110;

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with bytes.
    File,
    /// A directory.
    Directory,
}

/// A run of a file's bytes in one object's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of the object in the object table.
    pub object: u32,
    /// First byte in the object's plaintext.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// One file or directory of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the dataset's root, components joined by `/`.
    pub path: String,
    /// File or directory.
    pub kind: EntryKind,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// MIME type; empty for a directory.
    pub mime: String,
    /// SHA-256 of the file; zero for a directory.
    pub sha256: [u8; 32],
    /// Where the bytes are, in file order.
    pub extents: Vec<Extent>,
    /// Time of last change, unix seconds.
    pub mtime: Option<u64>,
    /// Hint that the file is a program.
    pub executable: bool,
    /// The owner's notes.
    pub attributes: BTreeMap<String, String>,
    /// Bit k tells that CBOR key k is written: other writers may leave out, or spell out, a default.
    pub(crate) written: u16,
}

impl Entry {
    pub(crate) fn directory(path: String) -> Self {
        Self {
            path,
            kind: EntryKind::Directory,
            size: 0,
            mime: String::new(),
            sha256: [0; 32],
            extents: Vec::new(),
            mtime: None,
            executable: false,
            attributes: BTreeMap::new(),
            written: DIRECTORY_KEYS,
        }
    }

    /// Whether this is a file.
    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }

    fn write(&self, to: &mut Writer) {
        let has = |key: u32| self.written & (1 << key) != 0;
        to.map(self.written.count_ones() as usize)
            .uint(1)
            .text(&self.path)
            .uint(2)
            .uint(u64::from(!self.is_file()));
        if has(3) {
            to.uint(3).uint(self.size);
        }
        if has(4) {
            to.uint(4).text(&self.mime);
        }
        if has(5) {
            to.uint(5).bytes(&self.sha256);
        }
        if has(6) {
            to.uint(6).array(self.extents.len());
            for extent in &self.extents {
                to.array(3)
                    .uint(extent.object.into())
                    .uint(extent.offset)
                    .uint(extent.length);
            }
        }
        if has(7) {
            to.uint(7).uint(self.mtime.unwrap_or_default());
        }
        if has(8) {
            to.uint(8).uint(0);
        }
        if has(9) {
            to.uint(9).bool(self.executable);
        }
        if has(10) {
            // Canonical order is that of the encoded keys: shorter ones first.
            let mut sorted: Vec<_> = self.attributes.iter().collect();
            sorted.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
            to.uint(10).map(sorted.len());
            for (name, value) in sorted {
                to.text(name).text(value);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self> {
        let mut entry = Self::directory(String::new());
        entry.written = 0;
        for _ in 0..from.map()? {
            let key = from.uint()?;
            match key {
                1 => entry.path = from.text()?,
                2 => {
                    entry.kind = match from.uint()? {
                        0 => EntryKind::File,
                        1 => EntryKind::Directory,
                        other => return Err(from.refuse(format!("an entry is of kind {other}"))),
                    }
                }
                3 => entry.size = from.uint()?,
                4 => entry.mime = from.text()?,
                5 => entry.sha256 = from.bytes()?,
                6 => entry.extents = read_extents(from, &entry.path)?,
                7 => entry.mtime = Some(from.uint()?),
                8 => match from.uint()? {
                    0 => {}
                    codec => {
                        return Err(VaultError::Codec {
                            path: entry.path,
                            codec,
                        });
                    }
                },
                9 => entry.executable = from.bool()?,
                10 => {
                    for _ in 0..from.map()? {
                        let name = from.text()?;
                        entry.attributes.insert(name, from.text()?);
                    }
                }
                other => return Err(from.refuse(format!("an entry has the unknown key {other}"))),
            }
            entry.written |= 1 << key;
        }
        let needed = if entry.is_file() {
            FILE_KEYS
        } else {
            DIRECTORY_KEYS
        };
        if entry.written & needed != needed {
            return Err(from.refuse("an entry lacks a field"));
        }
        if !entry.is_file() && (entry.size != 0 || !entry.extents.is_empty()) {
            return Err(from.refuse("a directory has bytes"));
        }
        Ok(entry)
    }

    /// Notes which fields our own writer writes.
    pub(crate) fn settle(mut self) -> Self {
        let base = if self.is_file() {
            FILE_KEYS | 1 << 8
        } else {
            DIRECTORY_KEYS
        };
        let optional = [
            (7, self.mtime.is_some()),
            (9, self.executable),
            (10, !self.attributes.is_empty()),
        ];
        self.written = optional
            .iter()
            .filter(|(_, present)| *present)
            .fold(base, |keys, (key, _)| keys | 1 << key);
        self
    }

    /// Checks the extents against the object table; `data` tells whether an object may hold file bytes.
    pub(crate) fn check_extents(&self, rows: &[Row], data: impl Fn(u32) -> bool) -> Result<()> {
        let refuse = |reason: &str| {
            Err(VaultError::Extent {
                path: self.path.clone(),
                reason: reason.to_owned(),
            })
        };
        let mut total = 0_u64;
        for extent in &self.extents {
            let Some(row) = rows.get(extent.object as usize) else {
                return refuse("it lies in an object that the table does not list");
            };
            if !data(extent.object) {
                return refuse("it lies in an object that belongs to the manifest");
            }
            match extent.offset.checked_add(extent.length) {
                Some(end) if end <= row.plaintext_len => {}
                _ => return refuse("it reaches beyond the end of an object"),
            }
            total = match total.checked_add(extent.length) {
                Some(total) => total,
                None => return refuse("its extents are longer than any file"),
            };
        }
        if total != self.size {
            return refuse("its extents do not add up to its size");
        }
        Ok(())
    }
}

fn read_extents(from: &mut Reader<'_>, path: &str) -> Result<Vec<Extent>> {
    let count = from.array()?;
    if count > MAX_EXTENTS as u64 {
        return Err(VaultError::Extent {
            path: path.to_owned(),
            reason: "it has more than 2^22 extents".into(),
        });
    }
    let read = |_| {
        from.tuple(3)?;
        Ok(Extent {
            object: from.u32()?,
            offset: from.uint()?,
            length: from.uint()?,
        })
    };
    (0..count).map(read).collect()
}

/// Encoded entries as a page of type "f".
pub(crate) fn encode_page(entries: &[Entry]) -> Vec<u8> {
    let mut to = Writer::new();
    to.map(2).uint(1).text("f").uint(2).array(entries.len());
    entries.iter().for_each(|entry| entry.write(&mut to));
    to.finish()
}

/// Reads a page of type "f".
pub(crate) fn decode_page(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut from = Reader::new("manifest page", bytes)?;
    page_header(&mut from, "f")?;
    let count = from.array()?;
    if count > MAX_PAGE_ENTRIES as u64 {
        return Err(VaultError::Limit {
            what: "entries in a manifest page".into(),
            limit: MAX_PAGE_ENTRIES as u64,
        });
    }
    let entries = (0..count)
        .map(|_| Entry::read(&mut from))
        .collect::<Result<Vec<_>>>()?;
    from.end(&encode_page(&entries))?;
    Ok(entries)
}

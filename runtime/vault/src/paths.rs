//! Which paths a dataset may contain (container section 7), and the rule that no two may look the same
//! elsewhere. Used when sealing and again when opening.

use crate::{Result, VaultError};
use std::collections::{BTreeMap, HashMap};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Longest path, bytes.
const MAX_PATH: usize = 4_096;
/// Longest component, bytes.
const MAX_COMPONENT: usize = 255;
/// Most components.
const MAX_DEPTH: usize = 64;

/// Checks one path by itself.
///
/// # Errors
/// `E_PATH` names the broken rule.
pub(crate) fn check(path: &str) -> Result<()> {
    let refuse = |reason: &str| {
        Err(VaultError::Path {
            path: shown(path),
            reason: reason.to_owned(),
        })
    };
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.len() > MAX_PATH {
        return refuse("it is longer than 4,096 bytes");
    }
    if path.starts_with('/') {
        return refuse("it is not relative");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return refuse("it contains a backslash or control character");
    }
    if !is_nfc(path) {
        return refuse("it is not in Unicode form NFC");
    }
    let mut depth = 0;
    for component in path.split('/') {
        depth += 1;
        match component {
            "" => return refuse("it has an empty component"),
            "." | ".." => return refuse("it has a component . or .."),
            _ if component.len() > MAX_COMPONENT => return refuse("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    if depth > MAX_DEPTH {
        return refuse("it is deeper than 64 folders");
    }
    Ok(())
}

/// Checks a whole tree, given as path and whether it is a directory: each path, that no two fold to the same
/// name, and that parents exist as directories.
pub(crate) fn check_tree(entries: &BTreeMap<&str, bool>) -> Result<()> {
    let mut folded: HashMap<String, &str> = HashMap::with_capacity(entries.len());
    for path in entries.keys() {
        check(path)?;
        if let Some(other) = folded.insert(fold(path), path) {
            let reason = format!("{other:?} is the same name where case does not count");
            return Err(VaultError::Path {
                path: shown(path),
                reason,
            });
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && entries.get(parent) != Some(&true)
        {
            let reason = "its parent is not a directory of this dataset".to_owned();
            return Err(VaultError::Path {
                path: shown(path),
                reason,
            });
        }
    }
    Ok(())
}

/// The form in which two paths collide: case folded, then NFC.
fn fold(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    // Upper before lower case joins what simple lower case keeps apart (ß and ss, ſ and s, ς and σ).
    path.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfc()
        .collect()
}

/// A path fit for one line of a message.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(path: &str) -> Option<&'static str> {
        check(path).err().map(|error| error.code())
    }

    #[test]
    fn accepts_ordinary_and_foreign_names() {
        for path in [
            "a",
            "a/b.txt",
            "tränen/β.csv",
            "...",
            "a b/ c",
            "数据/一.png",
            &"x".repeat(255),
        ] {
            assert_eq!(code(path), None, "{path}");
        }
        assert_eq!(code(&vec!["d"; 64].join("/")), None);
    }

    #[test]
    fn refuses_each_broken_rule() {
        let deep = vec!["d"; 65].join("/");
        let long = vec!["x".repeat(255); 17].join("/");
        let wide = "x".repeat(256);
        let refused = [
            "", "/a", "a//b", "a/", "/", ".", "..", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb", "a\u{7f}",
            "a\u{85}b", "e\u{301}", &deep, &long, &wide,
        ];
        for path in refused {
            assert_eq!(code(path), Some("E_PATH"), "{path:?}");
        }
    }

    #[test]
    fn refuses_names_that_collide_elsewhere() {
        let pairs = [
            ("Readme", "README"),
            ("straße", "STRASSE"),
            ("σ", "ς"),
            ("Ångström", "ångström"),
            ("ſ", "s"),
        ];
        for (one, two) in pairs {
            let tree = BTreeMap::from([(one, false), (two, false)]);
            assert_eq!(
                check_tree(&tree).err().map(|error| error.code()),
                Some("E_PATH"),
                "{one} {two}"
            );
        }
        let tree = BTreeMap::from([("A", true), ("A/x", false), ("a/x", false)]);
        assert!(check_tree(&tree).is_err());
    }

    #[test]
    fn refuses_a_child_without_a_directory() {
        assert!(check_tree(&BTreeMap::from([("a/b", false)])).is_err());
        assert!(check_tree(&BTreeMap::from([("a", false), ("a/b", false)])).is_err());
        assert!(check_tree(&BTreeMap::from([("a", true), ("a/b", false)])).is_ok());
    }

    proptest! {
        #[test]
        fn never_panics_and_never_lets_a_path_out(path in "\\PC{0,40}|[./a\\\\]{0,12}") {
            if check(&path).is_ok() {
                let joined = std::path::Path::new("/root").join(&path);
                prop_assert!(joined.starts_with("/root"));
                let plain = joined.components().all(|part| {
                    matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_))
                });
                prop_assert!(plain);
            }
        }
    }
}

//! Who looks at a page that is open to all.

use alephlab_api::model::private_uuid;

use super::short;
use crate::routes::words::short_hash;

/// Who looks at a page that is open to all.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// None for who is not signed in.
    pub(in crate::routes) account: Option<Who>,
    /// Where to go after signing in.
    pub(in crate::routes) next: String,
}

/// An account that looks.
#[derive(Debug, Clone)]
pub(in crate::routes) struct Who {
    pub(in crate::routes) id: String,
    pub(in crate::routes) short: String,
    /// The one that it has proven.
    pub(in crate::routes) address: Option<String>,
}

impl Visitor {
    pub(in crate::routes) fn new(account: Option<(&str, Option<&str>)>, next: &str) -> Self {
        Self {
            account: account.map(|(id, address)| Who {
                id: id.to_owned(),
                short: short(id),
                address: address.map(str::to_owned),
            }),
            next: next.to_owned(),
        }
    }

    /// The address that the account has proven.
    pub(super) fn address(&self) -> Option<&str> {
        self.account.as_ref()?.address.as_deref()
    }

    /// Whether this account has proven that address.
    pub(in crate::routes) fn is(&self, owner: &str) -> bool {
        self.address()
            .is_some_and(|address| address.eq_ignore_ascii_case(owner))
    }
}

/// `0x7a3f…c41e/digits` of `owner/name`.
pub(in crate::routes) fn short_name(name: &str) -> String {
    name.split_once('/').map_or_else(
        || name.to_owned(),
        |(owner, name)| format!("{}/{}", short(owner), shown_name(name)),
    )
}

/// A model's own name, or the first digits of what stands for that of a private one.
pub(super) fn shown_name(name: &str) -> String {
    match private_uuid(name) {
        Some(uuid) => short_hash(&uuid.to_string(), 8),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_the_name_of_a_private_model_is_shortened() {
        let owner = "0x7a3f09d2b8e14c5f6a7781e2d3905b64f1aac41e";
        assert_eq!(short_name(&format!("{owner}/digits")), "0x7a3f…c41e/digits");
        let private = format!("{owner}/7d0f5a38-7c7b-4f0f-9a53-55a5ad3a31f4");
        assert_eq!(short_name(&private), "0x7a3f…c41e/7d0f5a38…");
    }
}

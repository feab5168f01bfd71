//! Who looks at a page that is open to all.

use super::short;

/// Who looks at a page that is open to all.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// None for who is not signed in.
    pub(super) account: Option<Who>,
    /// Where to go after signing in.
    pub(super) next: String,
}

/// An account that looks.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) id: String,
    pub(super) short: String,
    /// The one that it has proven.
    pub(super) address: Option<String>,
}

impl Visitor {
    pub(super) fn new(account: Option<(&str, Option<&str>)>, next: &str) -> Self {
        Self {
            account: account.map(|(id, address)| Who {
                id: id.to_owned(),
                short: short(id),
                address: address.map(str::to_owned),
            }),
            next: next.to_owned(),
        }
    }

    /// Whether this account has proven that address.
    pub(super) fn is(&self, owner: &str) -> bool {
        let address = self.account.as_ref().and_then(|who| who.address.as_deref());
        address.is_some_and(|address| address.eq_ignore_ascii_case(owner))
    }
}

/// `0x7a3f…c41e/digits` of `owner/name`.
pub(super) fn short_name(name: &str) -> String {
    name.split_once('/').map_or_else(
        || name.to_owned(),
        |(owner, name)| format!("{}/{name}", short(owner)),
    )
}

//! Who looks at a page that is open to all.

use super::short;

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

    /// Whether this account has proven that address.
    pub(in crate::routes) fn is(&self, owner: &str) -> bool {
        let address = self.account.as_ref().and_then(|who| who.address.as_deref());
        address.is_some_and(|address| address.eq_ignore_ascii_case(owner))
    }
}

/// `0x7a3f…c41e/digits` of `owner/name`.
pub(in crate::routes) fn short_name(name: &str) -> String {
    name.split_once('/').map_or_else(
        || name.to_owned(),
        |(owner, name)| format!("{}/{name}", short(owner)),
    )
}

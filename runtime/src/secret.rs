//! Secrets of the kernel's account, read by name: in no notebook, no environment and no output.
//!
//! Called by cells through the prelude. Where they are kept, and who can read them there, is the gateway's business.

use std::fmt;

use alephlab_api::secrets::SecretName;

use crate::display::{Bundle, Rich};
use crate::{Error, Result, broker};

/// A secret. It shows its name and never its value, which [`Secret::expose`] gives; the value is overwritten when the
/// last variable that has it goes.
#[derive(Clone)]
pub struct Secret {
    name: SecretName,
    value: alephlab_api::Secret,
}

/// Reads a secret that the kernel's account stored with its gateway (`alephlab secret set NAME`). Asked for each time, so
/// that a value that was changed is the new one.
///
/// ```no_run
/// # use alephlab::secret;
/// # fn main() -> alephlab::Result<()> {
/// let key = secret("OPENAI_API_KEY")?;
/// let header = format!("Bearer {}", key.expose());
/// # drop(header);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Name`] for what cannot be a secret's name, [`Error::NoBroker`], [`Error::BrokerGone`], or [`Error::Broker`] with
/// the gateway's own words: when there is no such secret, they say how it is added.
pub fn secret(name: &str) -> Result<Secret> {
    let name: SecretName = name.parse().map_err(|error| Error::Name {
        name: name.to_owned(),
        reason: format!("{error}"),
    })?;
    let value = broker::ask_secret(name.clone())?;
    Ok(Secret { name, value })
}

impl Secret {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The value itself, for the call that needs it. What is printed or returned from a cell is in the notebook.
    pub fn expose(&self) -> &str {
        self.value.expose()
    }

    fn shown(&self) -> String {
        format!("Secret {}, whose value is not shown", self.name)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}

impl Rich for Secret {
    fn bundle(&self) -> Bundle {
        Bundle::new().text(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_its_name_and_never_its_value() {
        let key = Secret {
            name: "OPENAI_API_KEY".parse().unwrap(),
            value: alephlab_api::Secret::new("sk-canary"),
        };
        let (data, _) = key.bundle().into_parts();
        for shown in [
            format!("{key:?}"),
            format!("{key:#?}"),
            format!("{:?}", vec![Some(key.clone())]),
            format!("{data:?}"),
        ] {
            assert!(
                shown.contains("OPENAI_API_KEY") && !shown.contains("canary"),
                "{shown}"
            );
        }
        assert_eq!((key.name(), key.expose()), ("OPENAI_API_KEY", "sk-canary"));
    }

    #[test]
    fn a_name_that_can_be_none_is_refused_before_anybody_is_asked() {
        let error = secret("OPENAI-API-KEY").unwrap_err();
        assert_eq!(error.code(), "name");
        assert!(error.to_string().contains("letters (A to Z)"), "{error}");
    }

    #[test]
    fn without_a_broker_it_says_what_is_missing() {
        let error = secret("OPENAI_API_KEY").unwrap_err();
        assert_eq!(error.code(), "no_broker");
        assert!(error.to_string().contains("secrets need a broker"), "{error}");
    }
}

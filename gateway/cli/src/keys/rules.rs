//! Saved answers: `rules.json` in the data folder. The first rule that fits decides; without one a person is asked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{FileLock, read_json, write_json};
use crate::error::Result;

/// The gateway that this machine runs itself.
pub(crate) const OWN_GATEWAY: &str = "own";
/// Fits everything.
pub(crate) const ANY: &str = "*";
/// The action that spends.
pub(crate) const BUY: &str = "buy";

/// The rules of one data folder.
#[derive(Clone)]
pub(crate) struct Rules {
    path: PathBuf,
    rules: Vec<Rule>,
}

/// One saved answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// `own`, the address of a gateway, or `*`.
    pub gateway: String,
    /// `open`, `publish`, `upload`, `sell`, `buy`, or `*`. What is sold by signed terms needs no answer; `sell` with no refuses it.
    /// Money is spent by `buy` and not by `*`.
    pub action: String,
    /// A dataset's local name or id, a model's name, `owner/name` or id, each of them with `@revision` for one
    /// revision, a share's UUID, or `*`.
    pub name: String,
    /// The answer.
    pub answer: Answer,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Do it.
    Yes,
    /// Refuse it.
    No,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Rule>,
}

impl Rules {
    /// Reads the rules; a missing file has none.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let file: Option<File> = read_json(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            rules: file.unwrap_or_default().rules,
        })
    }

    /// Reads the rules; a missing file is written with one that says yes to this machine's own gateway.
    pub(crate) fn load_or_own(path: &Path) -> Result<Self> {
        if path.exists() {
            return Self::load(path);
        }
        let mut rules = Self {
            path: path.to_path_buf(),
            rules: Vec::new(),
        };
        rules.add(Rule {
            gateway: OWN_GATEWAY.to_owned(),
            action: ANY.to_owned(),
            name: ANY.to_owned(),
            answer: Answer::Yes,
        })?;
        Ok(rules)
    }

    /// The first answer that fits; `names` are all names of one thing.
    pub(crate) fn find(&self, gateway: &str, action: &str, names: &[String]) -> Option<Answer> {
        let fits = |pattern: &str, value: &str| pattern == ANY || pattern.eq_ignore_ascii_case(value);
        // A star that was written for opening and signing must not spend; it may refuse to.
        let may = |rule: &Rule| {
            let is_star = rule.action == ANY && action == BUY && rule.answer == Answer::Yes;
            fits(&rule.action, action) && !is_star
        };
        let rule = self.rules.iter().find(|rule| {
            fits(&rule.gateway, gateway)
                && may(rule)
                && (rule.name == ANY || names.iter().any(|name| fits(&rule.name, name)))
        });
        rule.map(|rule| rule.answer)
    }

    /// Saves an answer; a newer one comes before older ones, also before those that another process saved meanwhile.
    pub(crate) fn add(&mut self, rule: Rule) -> Result<()> {
        let _lock = FileLock::wait(&self.path)?;
        self.rules = Self::load(&self.path)?.rules;
        self.rules.insert(0, rule);
        write_json(
            &self.path,
            &File {
                rules: self.rules.clone(),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn the_own_gateway_is_trusted_until_a_rule_says_otherwise() {
        let folder = scratch();
        let path = folder.path().join("rules.json");
        let mut rules = Rules::load_or_own(&path).unwrap();
        let digits = ["digits".to_owned()];
        assert_eq!(rules.find(OWN_GATEWAY, "open", &digits), Some(Answer::Yes));
        assert_eq!(rules.find("http://other", "open", &digits), None);
        let no = Rule {
            gateway: OWN_GATEWAY.into(),
            action: "open".into(),
            name: "digits".into(),
            answer: Answer::No,
        };
        rules.add(no).unwrap();
        let rules = Rules::load_or_own(&path).unwrap();
        assert_eq!(rules.find(OWN_GATEWAY, "open", &digits), Some(Answer::No));
        assert_eq!(rules.find(OWN_GATEWAY, "publish", &digits), Some(Answer::Yes));
    }

    #[test]
    fn a_star_spends_nothing_and_may_refuse_to() {
        let folder = scratch();
        let path = folder.path().join("rules.json");
        let mut rules = Rules::load_or_own(&path).unwrap();
        let names = ["0xAb/digits".to_owned()];
        assert_eq!(rules.find(OWN_GATEWAY, BUY, &names), None);
        let rule = |action: &str, answer| Rule {
            gateway: OWN_GATEWAY.into(),
            action: action.into(),
            name: ANY.into(),
            answer,
        };
        rules.add(rule(BUY, Answer::Yes)).unwrap();
        assert_eq!(rules.find(OWN_GATEWAY, BUY, &names), Some(Answer::Yes));
        rules.add(rule(ANY, Answer::No)).unwrap();
        assert_eq!(rules.find(OWN_GATEWAY, BUY, &names), Some(Answer::No));
    }

    #[test]
    fn answers_that_two_processes_save_are_both_kept() {
        let folder = scratch();
        let path = folder.path().join("rules.json");
        let mut processes = [Rules::load(&path).unwrap(), Rules::load(&path).unwrap()];
        for (rules, name) in processes.iter_mut().zip(["one", "two"]) {
            let answer = Rule {
                gateway: ANY.into(),
                action: ANY.into(),
                name: name.into(),
                answer: Answer::No,
            };
            rules.add(answer).unwrap();
        }
        let rules = Rules::load(&path).unwrap();
        for name in ["one", "two"] {
            assert_eq!(
                rules.find("http://g", "open", &[name.to_owned()]),
                Some(Answer::No)
            );
        }
    }

    #[test]
    fn a_rule_with_an_unknown_field_is_refused() {
        let folder = scratch();
        let path = folder.path().join("rules.json");
        std::fs::write(
            &path,
            r#"{"rules":[{"gateway":"own","answer":"yes","dataset":"x"}]}"#,
        )
        .unwrap();
        assert!(Rules::load(&path).is_err());
    }
}

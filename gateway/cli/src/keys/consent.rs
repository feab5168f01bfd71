//! Whether a request may use the keys: a saved rule decides, or the person at the terminal.
//!
//! What is shown comes from the gateway and the kernel, so control characters are taken out. Nothing here uses a key.

use std::io::{IsTerminal, Write};

use alephlab_api::keys::{Ask, KeyCall};
use alephlab_vault::fingerprint;

use super::rules::{ANY, Answer, BUY, OWN_GATEWAY, Rule, Rules};
use super::sales::SellRules;
use crate::error::{CliError, Result};
use crate::progress::printable;

/// Who decides.
pub(crate) enum Consent {
    /// Rules for this machine's own gateway; what no rule covers is left to `alephlab keys`.
    OwnGateway(Rules),
    /// Rules for the gateway with this address, then the person at the terminal.
    Terminal(String, Rules),
}

/// What a request wants, in the words of rules and questions.
pub(crate) struct Wish {
    /// `open`, `publish` or `upload`.
    pub action: &'static str,
    /// The dataset or model as the kernel names it.
    pub asked_as: String,
    /// Its names as this machine knows it, the fullest first; never empty.
    pub names: Vec<String>,
    /// Follow-up steps of a publish that was agreed to need no second question.
    pub is_follow_up: bool,
}

impl Wish {
    /// Reads a request; `names` are what this machine calls the thing.
    pub(crate) fn of(ask: &Ask, mut names: Vec<String>) -> Self {
        let (action, asked_as, is_follow_up) = match ask {
            Ask::Open { reference } => ("open", reference, false),
            Ask::Prepare { model } => ("publish", model, false),
            Ask::Match { model, .. } | Ask::SignStores { model, .. } => ("publish", model, true),
            Ask::SignPublish { model, .. } => ("publish", model, false),
            Ask::PrepareUpload { dataset, .. } => ("upload", dataset, false),
            // Answered only to who shows the ticket of the upload that was agreed to.
            Ask::SignUploadStores { dataset, .. } | Ask::SignUpload { dataset, .. } => {
                ("upload", dataset, true)
            }
        };
        if names.is_empty() {
            names.push(asked_as.clone());
        }
        Self {
            action,
            asked_as: asked_as.clone(),
            names,
            is_follow_up,
        }
    }

    /// The name to show and to save.
    fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.asked_as)
    }
}

impl Consent {
    /// What saved answers say of sales.
    pub(super) fn of_sales(&self) -> SellRules {
        let (gateway, rules) = match self {
            Self::OwnGateway(rules) => (OWN_GATEWAY, rules),
            Self::Terminal(gateway, rules) => (gateway.as_str(), rules),
        };
        SellRules {
            gateway: gateway.to_owned(),
            rules: rules.clone(),
        }
    }

    /// The answer; `None` leaves the request to another machine of the owner. `names` are what this machine calls the
    /// thing, `details` lines to show.
    pub(crate) async fn decide(
        &mut self,
        call: &KeyCall,
        names: Vec<String>,
        details: Vec<String>,
    ) -> Result<Option<Answer>> {
        let wish = Wish::of(&call.request.ask, names);
        match self {
            Self::OwnGateway(rules) => Ok(rules.find(OWN_GATEWAY, wish.action, &wish.names)),
            Self::Terminal(gateway, rules) => {
                if let Some(answer) = rules.find(gateway, wish.action, &wish.names) {
                    return Ok(Some(answer));
                }
                if wish.is_follow_up {
                    return Ok(Some(Answer::Yes));
                }
                ask(gateway, rules, call, &wish, details).await
            }
        }
    }
}

impl Consent {
    /// Whether something is bought; `None` leaves it to another machine of the account. `lines` say what, and for how much.
    pub(super) async fn decide_purchase(
        &mut self,
        names: &[String],
        lines: &[String],
    ) -> Result<Option<Answer>> {
        match self {
            Self::OwnGateway(rules) => Ok(rules.find(OWN_GATEWAY, BUY, names)),
            Self::Terminal(gateway, rules) => {
                if let Some(answer) = rules.find(gateway, BUY, names) {
                    return Ok(Some(answer));
                }
                let first = format!("somebody signed in at {} wants to buy", printable(gateway));
                let lines = lines.iter().map(|line| format!("  {}", printable(line)));
                let text: Vec<_> = std::iter::once(first).chain(lines).collect();
                let Some(typed) = typed(text.join("\n"), "pay? [y]es, [n]o: ").await? else {
                    return Ok(None);
                };
                Ok(Some(match typed.as_str() {
                    "y" | "yes" => Answer::Yes,
                    _ => Answer::No,
                }))
            }
        }
    }
}

/// What a person needs to know before saying yes, one line each.
pub(crate) fn describe(gateway: &str, call: &KeyCall, wish: &Wish, details: &[String]) -> Vec<String> {
    let kernel = &call.kernel;
    let fingerprint = fingerprint(&call.request.kernel_key);
    let mut lines = vec![
        format!("a kernel wants to {} {}", wish.action, printable(wish.name())),
        format!("  gateway  {}", printable(gateway)),
        format!("  kernel   {} started {}", kernel.id, printable(&kernel.started)),
        format!(
            "  host     {}: {}",
            printable(&kernel.host),
            printable(&kernel.trust)
        ),
        format!("  key      {fingerprint}"),
    ];
    if wish.asked_as != wish.name() {
        lines.push(format!("  asked as {}", printable(&wish.asked_as)));
    }
    lines.extend(details.iter().map(|line| format!("  {}", printable(line))));
    lines
}

async fn ask(
    gateway: &str,
    rules: &mut Rules,
    call: &KeyCall,
    wish: &Wish,
    details: Vec<String>,
) -> Result<Option<Answer>> {
    let text = describe(gateway, call, wish, &details).join("\n");
    let asked = "allow? [y]es, [n]o, [a]lways for this name at this gateway: ";
    let Some(typed) = typed(text, asked).await? else {
        return Ok(None);
    };
    match typed.as_str() {
        "y" | "yes" => Ok(Some(Answer::Yes)),
        "a" | "always" => {
            // An unknown name came from the kernel as it is, and a star would fit everything.
            if wish.name().is_empty() || wish.name() == ANY {
                return Ok(Some(Answer::Yes));
            }
            rules.add(Rule {
                gateway: gateway.to_owned(),
                action: wish.action.to_owned(),
                name: wish.name().to_owned(),
                answer: Answer::Yes,
            })?;
            Ok(Some(Answer::Yes))
        }
        _ => Ok(Some(Answer::No)),
    }
}

/// What a person types at the question, in lower case; `None` where there is nobody to ask.
async fn typed(mut text: String, question: &str) -> Result<Option<String>> {
    if !std::io::stdin().is_terminal() {
        text.push_str("\nno rule fits and there is no terminal to ask at: not answered\n");
        drop(std::io::stderr().write_all(text.as_bytes()));
        return Ok(None);
    }
    text.push('\n');
    text.push_str(question);
    let typed = tokio::task::spawn_blocking(move || {
        let mut stderr = std::io::stderr();
        stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush())?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let typed = typed
        .await
        .ok()
        .and_then(std::result::Result::ok)
        .ok_or_else(|| CliError::Program {
            program: "alephlab keys",
            reason: "the terminal cannot be read".to_owned(),
        })?;
    Ok(Some(typed.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use alephlab_api::keys::{KernelInfo, KeyRequest};
    use uuid::Uuid;

    use super::*;
    use crate::testing::scratch;

    fn call(ask: Ask) -> KeyCall {
        KeyCall {
            id: Uuid::nil(),
            kernel: KernelInfo {
                id: Uuid::nil(),
                host: "here\u{1b}[2J".into(),
                trust: "this machine".into(),
                started: "now".into(),
            },
            request: KeyRequest {
                kernel_key: "ab".repeat(32),
                walls: Vec::new(),
                ask,
            },
        }
    }

    #[tokio::test]
    async fn the_own_gateway_follows_its_rules_and_leaves_the_rest() {
        let folder = scratch();
        let path = folder.path().join("rules.json");
        let open = call(Ask::Open {
            reference: "digits".into(),
        });
        let mut own = Consent::OwnGateway(Rules::load_or_own(&path).unwrap());
        assert_eq!(
            own.decide(&open, vec!["digits".into()], Vec::new())
                .await
                .unwrap(),
            Some(Answer::Yes)
        );
        std::fs::write(&path, r#"{"rules":[]}"#).unwrap();
        let mut own = Consent::OwnGateway(Rules::load_or_own(&path).unwrap());
        assert_eq!(
            own.decide(&open, vec!["digits".into()], Vec::new())
                .await
                .unwrap(),
            None
        );
    }

    #[test]
    fn what_is_shown_names_everything_and_cannot_move_the_cursor() {
        let call = call(Ask::Open {
            reference: "digits\nallow? y".into(),
        });
        let wish = Wish::of(&call.request.ask, Vec::new());
        let lines = describe("http://g", &call, &wish, &["version  3".into()]);
        assert!(
            lines.iter().all(|line| !line.contains(['\u{1b}', '\n'])),
            "{lines:?}"
        );
        let text = lines.join("\n");
        for part in ["open digits allow? y", "http://g", "this machine", "version  3"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn signing_a_head_is_asked_and_its_objects_are_not() {
        let stores = Ask::SignStores {
            model: "m".into(),
            objects: Vec::new(),
        };
        let prepare = Ask::Prepare { model: "m".into() };
        let [stores, prepare] = [stores, prepare].map(|ask| Wish::of(&ask, Vec::new()));
        assert!(stores.is_follow_up && !prepare.is_follow_up);
    }
}

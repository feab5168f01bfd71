//! How a model is used by each client: text to copy.

use alephlab_api::model::Visibility;

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snippet {
    /// Word in addresses.
    pub(crate) client: &'static str,
    pub(crate) title: &'static str,
    pub(crate) language: &'static str,
    pub(crate) text: String,
    /// What has to be there before.
    pub(crate) note: &'static str,
}

/// What is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used<'a> {
    /// `owner/name`.
    pub(crate) name: &'a str,
    /// Tag or revision; none for the newest.
    pub(crate) revision: Option<&'a str>,
    pub(crate) visibility: Visibility,
    /// A file to load.
    pub(crate) file: &'a str,
    /// This gateway as clients name it.
    pub(crate) gateway: &'a str,
}

/// Of a sealed model's clients that know no seals.
const BY_HUB: &str = "The model is sealed: run alephlab hub on a machine whose account may open it. It prints \
                      the address and the token that stand here as HUB and TOKEN.";
const PUBLIC: &str = "The model is public: no token is needed.";
const OWN: &str = "The account that runs it must be able to open the model.";
const KERNEL: &str = "In a cell of a Rust (Alephlab) kernel.";

/// All clients.
pub(crate) fn all(used: Used<'_>) -> Vec<Snippet> {
    let Used {
        name, revision, file, ..
    } = used;
    let reference = revision.map_or_else(|| name.to_owned(), |revision| format!("{name}@{revision}"));
    let (is_public, endpoint) = match used.visibility {
        Visibility::Public => (true, used.gateway),
        Visibility::Sealed | Visibility::Private => (false, "HUB"),
    };
    let note = if is_public { PUBLIC } else { BY_HUB };
    let exports = match is_public {
        true => format!("export HF_ENDPOINT={endpoint}\n"),
        false => format!("export HF_ENDPOINT={endpoint} HF_TOKEN=TOKEN\n"),
    };
    let at = |start: &str, end: &str| {
        revision.map_or_else(String::new, |revision| format!("{start}{revision}{end}"))
    };
    let python_token = if is_public {
        ""
    } else {
        "os.environ[\"HF_TOKEN\"] = \"TOKEN\"\n"
    };
    vec![
        Snippet {
            client: "notebook",
            title: "Notebook",
            language: "Rust",
            text: format!(
                "let model = pull(\"{reference}\", None)?;\nlet tensors = model.tensors(&device()?)?;"
            ),
            note: KERNEL,
        },
        Snippet {
            client: "hf",
            title: "hf",
            language: "Shell",
            text: format!("{exports}hf download {name}{}", at(" --revision ", "")),
            note,
        },
        Snippet {
            client: "transformers",
            title: "transformers",
            language: "Python",
            text: format!(
                "import os\nos.environ[\"HF_ENDPOINT\"] = \"{endpoint}\"\n{python_token}\nfrom transformers import AutoModel\n\
                 name = \"{name}\"\nmodel = AutoModel.from_pretrained(name{})",
                at(", revision=\"", "\"")
            ),
            note,
        },
        Snippet {
            client: "candle",
            title: "candle",
            language: "Rust",
            text: format!(
                "// HF_ENDPOINT={endpoint} in the environment\nuse hf_hub::{{Repo, RepoType, api::sync::ApiBuilder}};\n\
                 let name = \"{name}\".to_owned();\nlet repo = Repo::with_revision(name, RepoType::Model, \"{}\".into());\n\
                 let api = ApiBuilder::from_env(){}.build()?;\nlet file = api.repo(repo).get(\"{file}\")?;\n\
                 let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu)?;",
                revision.unwrap_or("main"),
                if is_public {
                    ""
                } else {
                    ".with_token(Some(\"TOKEN\".into()))"
                },
            ),
            note,
        },
        Snippet {
            client: "alephlab",
            title: "alephlab",
            language: "Shell",
            text: format!("alephlab model pull {reference}"),
            note: if is_public { PUBLIC } else { OWN },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_model_needs_no_token_and_a_sealed_one_goes_by_the_readers_machine() {
        let used = |visibility| Used {
            name: "0xAb/digits",
            revision: Some("v1"),
            visibility,
            file: "model.safetensors",
            gateway: "https://lab.example",
        };
        for snippet in all(used(Visibility::Public)) {
            assert!(
                !snippet.text.contains("TOKEN") && !snippet.text.contains("HUB"),
                "{snippet:?}"
            );
            assert!(snippet.text.contains("0xAb/digits"), "{snippet:?}");
        }
        for snippet in all(used(Visibility::Sealed)) {
            assert!(!snippet.text.contains("lab.example"), "{snippet:?}");
        }
        let newest = Used {
            revision: None,
            ..used(Visibility::Public)
        };
        assert_eq!(all(newest)[4].text, "alephlab model pull 0xAb/digits");
        assert!(all(newest)[3].text.contains("\"main\".into()"));
    }
}

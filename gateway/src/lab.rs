//! JupyterLab's own files, as its package publishes them: static files, schemas of settings, themes and extensions. The gateway
//! serves them and knows no more of JupyterLab than where these lie. `alephlab lab install` fetches and checks them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{GatewayError, Result};

/// An installed JupyterLab.
pub(crate) struct Lab {
    folder: PathBuf,
    /// The script that starts it, with its version: `main.HASH.js?v=HASH`.
    main: String,
    pub(crate) version: String,
    /// Schemas of settings by id, with the version of what they belong to.
    pub(crate) schemas: BTreeMap<String, (Value, String)>,
    /// What the page needs to load extensions.
    pub(crate) extensions: Vec<Value>,
}

/// Whose files are served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Static,
    Themes,
    Extensions,
}

impl Lab {
    /// What lies in `folder`: `lab/{static,schemas,themes}` and `labextensions`, as in a Python prefix's `share/jupyter`.
    ///
    /// # Errors
    /// When it is not such a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let wrong = |reason: String| GatewayError::Setting {
            setting: "lab",
            reason,
        };
        let index = folder.join("lab/static/index.html");
        let page = fs::read_to_string(&index)
            .map_err(|error| wrong(format!("{} cannot be read: {error}", index.display())))?;
        let main = main_script(&page).ok_or_else(|| wrong(format!("{} names no script", index.display())))?;
        let package = json_of(&folder.join("lab/static/package.json"));
        let version = package["jupyterlab"]["version"].as_str().unwrap_or("4");
        let mut lab = Self {
            folder: folder.to_owned(),
            main,
            version: version.to_owned(),
            schemas: BTreeMap::new(),
            extensions: Vec::new(),
        };
        lab.add_schemas(&folder.join("lab/schemas"));
        for package in packages(&folder.join("labextensions")) {
            lab.add_extension(&package);
        }
        Ok(lab)
    }

    /// A file of a part; none when there is no such file, or the path leads elsewhere.
    pub(crate) fn file(&self, part: Part, path: &str) -> Option<PathBuf> {
        let plain = Path::new(path)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        let folder = match part {
            Part::Static => "lab/static",
            Part::Themes => "lab/themes",
            Part::Extensions => "labextensions",
        };
        let file = self.folder.join(folder).join(path);
        (plain && !path.is_empty() && file.is_file()).then_some(file)
    }

    /// The page, with this configuration for it.
    pub(crate) fn page(&self, config: &Value) -> String {
        // As JSON in a script: what could end that is written otherwise.
        let config = config.to_string().replace('<', "\\u003c");
        let main = &self.main;
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>JupyterLab</title>\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <script id=\"jupyter-config-data\" type=\"application/json\">{config}</script>\
             <link rel=\"icon\" type=\"image/svg+xml\" href=\"/static/icon.svg\" class=\"idle favicon\">\
             <link rel=\"\" type=\"image/svg+xml\" href=\"/static/icon.svg\" class=\"busy favicon\">\
             <script defer src=\"/static/lab/{main}\"></script></head>\
             <body class=\"jp-ThemedContainer\"></body></html>"
        )
    }

    fn add_schemas(&mut self, folder: &Path) {
        for package in packages(folder) {
            let Ok(name) = package.strip_prefix(folder) else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let original = json_of(&package.join("package.json.orig"));
            let version = original["version"].as_str().unwrap_or_default().to_owned();
            for file in entries(&package)
                .into_iter()
                .filter(|file| file.extension().is_some_and(|one| one == "json"))
            {
                let stem = file
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                self.schemas
                    .insert(format!("{name}:{stem}"), (json_of(&file), version.clone()));
            }
        }
    }

    fn add_extension(&mut self, package: &Path) {
        let about = json_of(&package.join("package.json"));
        let (name, build) = (&about["name"], &about["jupyterlab"]["_build"]);
        if name.is_string() && build["load"].is_string() {
            self.extensions.push(json!({
                "name": name, "load": build["load"], "extension": build["extension"], "style": build["style"],
                "entrypoints": null,
            }));
            self.add_schemas(&package.join("schemas"));
        }
    }
}

/// The address of the page's script, as the package's own page has it.
fn main_script(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("{{page_config.fullStaticUrl}}/")?;
    let main = rest.split('"').next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".?=_-".contains(c);
    (main.starts_with("main.") && main.chars().all(plain)).then(|| main.to_owned())
}

/// Folders of packages: `name` and `@scope/name`.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let is_scope = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('@'))
    };
    let all = entries(folder).into_iter().filter(|path| path.is_dir());
    let mut packages: Vec<_> = all
        .flat_map(|path| {
            if is_scope(&path) {
                entries(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.is_dir())
        .collect();
    packages.sort();
    packages
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn json_of(file: &Path) -> Value {
    let text = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn finds_script_schemas_and_extensions_and_serves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lab::open(folder.path()).err().unwrap().code(), "gateway_setting");
        write(
            folder.path(),
            &[
                (
                    "lab/static/index.html",
                    "<script src=\"{{page_config.fullStaticUrl}}/main.ab12.js?v=ab12\"></script>",
                ),
                (
                    "lab/static/package.json",
                    "{\"jupyterlab\":{\"version\":\"4.6.6\"}}",
                ),
                (
                    "lab/schemas/@jupyterlab/a-extension/themes.json",
                    "{\"title\":\"Theme\"}",
                ),
                (
                    "lab/schemas/@jupyterlab/a-extension/package.json.orig",
                    "{\"version\":\"4.6.1\"}",
                ),
                (
                    "labextensions/@w/manager/package.json",
                    "{\"name\":\"@w/manager\",\"jupyterlab\":{\"_build\":{\"load\":\"static/r.js\"}}}",
                ),
                ("labextensions/@w/manager/schemas/@w/manager/plugin.json", "{}"),
                ("labextensions/@w/manager/static/r.js", "x"),
                ("secret", "x"),
            ],
        );
        let lab = Lab::open(folder.path()).unwrap();
        assert_eq!((lab.version.as_str(), lab.extensions.len()), ("4.6.6", 1));
        assert_eq!(lab.schemas["@jupyterlab/a-extension:themes"].1, "4.6.1");
        assert!(lab.schemas.contains_key("@w/manager:plugin"));
        assert!(lab.file(Part::Extensions, "@w/manager/static/r.js").is_some());
        for path in ["", "../../secret", "/etc/passwd", "none.js", "a/../index.html"] {
            assert!(lab.file(Part::Static, path).is_none(), "{path}");
        }
        let page = lab.page(&json!({ "a": "</script><script>alert(1)" }));
        assert!(page.contains("/static/lab/main.ab12.js?v=ab12") && !page.contains("</script><script>alert"));
    }

    #[test]
    fn takes_no_script_from_elsewhere() {
        for page in [
            "",
            "{{page_config.fullStaticUrl}}/other.js\"",
            "{{page_config.fullStaticUrl}}/main.js\u{20}onload=x\"",
        ] {
            assert_eq!(main_script(page), None, "{page}");
        }
    }
}

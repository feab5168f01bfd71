//! What a package is built from, by `cargo metadata`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Packages that `root`, a package id, is built from, itself too: along the dependencies that have a kind which `follows`
/// (null for an ordinary one, `build`, `dev`), and into the packages that `enters`.
pub(crate) fn packages<'a>(
    metadata: &'a Value,
    root: &str,
    follows: impl Fn(&Value) -> bool,
    enters: impl Fn(&Value) -> bool,
) -> Vec<&'a Value> {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let mut waiting = vec![root];
    let mut found = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else {
            continue;
        };
        if found.contains_key(id) || !enters(package) {
            continue;
        }
        found.insert(id, *package);
        let followed = |dep: &&Value| list(&dep["dep_kinds"]).any(|kind| follows(&kind["kind"]));
        waiting.extend(
            list(&node["deps"])
                .filter(followed)
                .filter_map(|dep| dep["pkg"].as_str()),
        );
    }
    found.into_values().collect()
}

/// Name and version of a package.
pub(crate) fn name_and_version(package: &Value) -> Option<(String, String)> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    Some((text("name")?, text("version")?))
}

/// Whether a package is a macro: loaded by the compiler, and not linked into anything.
pub(crate) fn is_macro(package: &Value) -> bool {
    let mut kinds = list(&package["targets"]).flat_map(|target| list(&target["kind"]));
    kinds.any(|kind| kind == "proc-macro")
}

fn by_id(all: &Value) -> BTreeMap<&str, &Value> {
    list(all)
        .filter_map(|one| Some((one["id"].as_str()?, one)))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_build_scripts_and_macros_use_is_not_inside_a_library() {
        let package = |id: &str, kind: &str| json!({ "id": id, "name": id, "version": "1", "targets": [{ "kind": [kind] }] });
        let dep = |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("a", "lib"), package("b", "lib"), package("m", "proc-macro"), package("s", "lib"), package("of m", "lib")],
            "resolve": { "nodes": [
                { "id": "a", "deps": [dep("b", Value::Null), dep("m", Value::Null), dep("s", json!("build"))] },
                { "id": "b", "deps": [dep("a", Value::Null)] },
                { "id": "m", "deps": [dep("of m", Value::Null)] },
                { "id": "s", "deps": [] },
                { "id": "of m", "deps": [] },
            ] },
        });
        let names = |found: Vec<&Value>| {
            found
                .into_iter()
                .filter_map(name_and_version)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        let inside = packages(&metadata, "a", Value::is_null, |package| !is_macro(package));
        assert_eq!(names(inside), ["a", "b"]);
        let built = packages(&metadata, "a", |kind| kind != "dev", |_| true);
        assert_eq!(names(built), ["a", "b", "m", "of m", "s"]);
        assert!(packages(&Value::Null, "a", |_| true, |_| true).is_empty());
    }
}

//! The notebooks, as far as they go without a kernel: the recipe of `quickstart.ipynb` on the dataset that this
//! repository carries, and their form.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use alephlab::prelude::*;

/// What quickstart promises.
const ACCURACY_MIN: f64 = 0.98;
/// All that train or use a model; those of `tests/clients` run them.
const NOTEBOOKS: [&str; 7] = [
    "quickstart.ipynb",
    "pull.ipynb",
    "digits_cnn.ipynb",
    "penguins.ipynb",
    "small_gpt.ipynb",
    "similar_sentences.ipynb",
    "fine_tune.ipynb",
];

fn notebooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks")
}

fn notebook(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(notebooks().join(name)).unwrap()).unwrap()
}

fn source(cell: &serde_json::Value) -> String {
    cell["source"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect()
}

fn code(notebook: &serde_json::Value, id: &str) -> String {
    let cells = notebook["cells"].as_array().unwrap();
    source(
        cells
            .iter()
            .find(|cell| cell["id"] == id && cell["cell_type"] == "code")
            .unwrap(),
    )
}

#[test]
fn recipe_of_quickstart_reads_held_out_digits_and_survives_saving() {
    let table = read_csv(notebooks().join("data/digits/digits.csv")).unwrap();
    assert_eq!((table.len(), table.columns().len()), (1797, 65));
    let device = device().unwrap();
    let split = table.split(0.2, 2).unwrap();
    let train = split.train.examples("c64", &device).unwrap();
    let test = split.test.examples("c64", &device).unwrap();
    let vars = VarMap::new();
    let config = nn::CnnConfig {
        size: [8, 8],
        pixel_max: 16.0,
        filters: vec![32, 64],
        hidden: 64,
        outputs: 10,
        dropout: 0.2,
        ..nn::CnnConfig::default()
    };
    let network = nn::Cnn::new(&config, seeded_vars(&vars, 2, &device)).unwrap();
    let parameters: usize = vars.all_vars().iter().map(|var| var.elem_count()).sum();
    let trainer = Trainer::new(&vars)
        .epochs(15)
        .batch_size(64)
        .learning_rate(0.003)
        .weight_decay(0.05)
        .seed(2);
    let history = trainer.fit(&network, &train, &test).unwrap();
    let score = accuracy(&network, &test).unwrap();
    println!(
        "{:.4} of {} images in {:.1} s, {parameters} parameters",
        score,
        test.len(),
        history.seconds
    );
    assert!(score >= ACCURACY_MIN, "{score}");

    // What the second account does, without the network between.
    let folder = tempfile::tempdir().unwrap();
    vars.save(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
    split
        .test
        .write_csv(folder.path().join("test_split.csv"))
        .unwrap();
    let model = load(folder.path()).unwrap();
    let pulled = nn::Cnn::from_model(&model, &device).unwrap();
    let same = read_csv(model.file("test_split.csv").unwrap())
        .unwrap()
        .examples("c64", &device)
        .unwrap();
    assert_eq!(accuracy(&pulled, &same).unwrap(), score);
}

#[test]
fn quickstart_trains_as_the_recipe_does() {
    let quickstart = notebook("quickstart.ipynb");
    let train = code(&quickstart, "network") + &code(&quickstart, "train");
    for step in [
        "size: [8, 8],",
        "pixel_max: 16.0,",
        "filters: vec![32, 64],",
        "hidden: 64,",
        "outputs: 10,",
        "dropout: 0.2,",
        "seeded_vars(&vars, 2,",
        ".epochs(15)",
        ".batch_size(64)",
        ".learning_rate(0.003)",
        ".weight_decay(0.05)",
        ".seed(2)",
    ] {
        assert!(train.contains(step), "{step}");
    }
    assert!(code(&quickstart, "split").contains("table.split(0.2, 2)"));
    assert!(code(&notebook("pull.ipynb"), "network").contains("nn::Cnn::from_model(&model,"));
}

#[test]
fn notebooks_are_clean_and_end_with_a_line_for_programs() {
    for name in NOTEBOOKS {
        let notebook = notebook(name);
        assert_eq!(
            (notebook["nbformat"].as_u64(), notebook["nbformat_minor"].as_u64()),
            (Some(4), Some(5))
        );
        assert_eq!(notebook["metadata"]["kernelspec"]["name"], "alephlab");
        let cells = notebook["cells"].as_array().unwrap();
        let ids: std::collections::BTreeSet<&str> =
            cells.iter().map(|cell| cell["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), cells.len(), "{name}: ids are not unique");
        for cell in cells.iter().filter(|cell| cell["cell_type"] == "code") {
            assert_eq!(
                cell["outputs"].as_array().map(Vec::len),
                Some(0),
                "{name}: {}",
                cell["id"]
            );
            assert!(cell["execution_count"].is_null());
        }
        assert!(code(&notebook, "result").contains("ALEPHLAB_RESULT {{"), "{name}");
    }
    let pull = notebook("pull.ipynb");
    let parameters = pull["cells"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cell| cell["metadata"]["tags"][0] == "parameters");
    assert_eq!(parameters.map(source).unwrap().lines().count(), 2);
}

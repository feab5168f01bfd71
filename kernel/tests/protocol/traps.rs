//! `kernel/tests/TRAPS.md` names tests that exist.

use std::path::Path;

#[test]
fn every_trap_names_tests_that_exist() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut folders = vec![
        kernel.join("src"),
        kernel.join("tests"),
        kernel.join("../tests/clients"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs" || end == "py") {
                sources += &std::fs::read_to_string(&path).unwrap();
            }
        }
    }
    let table = std::fs::read_to_string(kernel.join("tests/TRAPS.md")).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert_eq!(rows.len(), 27);
    for (row, number) in rows.iter().zip(1..) {
        assert!(row.starts_with(&format!("| {number} |")), "{row}");
        let tests: Vec<&str> = row
            .rsplit_once(" | ")
            .map(|(_, tests)| tests.split('`').skip(1).step_by(2).collect())
            .unwrap();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            let defined =
                sources.contains(&format!("fn {test}(")) || sources.contains(&format!("def {test}("));
            assert!(defined, "trap {number} names {test}, which is nowhere");
        }
    }
}

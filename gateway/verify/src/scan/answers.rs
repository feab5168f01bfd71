//! What a scanner program said of one file: read from its exit code, and from its words where the code alone does not tell a hit from
//! an error.

use super::external::External;

/// How the answer of a program is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// From its exit code.
    Code,
    /// ClamAV: the same, but that a limit of its own was passed is told as found, and is no finding.
    ClamAv,
    /// picklescan: its code for an error comes before that for a hit, and what is no pickle is "clean".
    Picklescan,
    /// modelscan, which answers in JSON: its codes for errors come before that for a hit.
    Modelscan,
}

/// What one run says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Looked through, and nothing found.
    Clean,
    /// It does not know such files, or could not read this one as such.
    Unknown,
    /// A hit, in its own words.
    Hit(String),
    /// It did not look through the file, for this reason.
    Stopped(String),
}

/// What a program's exit code and words say.
pub(super) fn answer(of: &External, code: i32, text: &str) -> Answer {
    match of.reading {
        Reading::Code => by_code(of, code, text),
        Reading::ClamAv if text.contains("Heuristics.Limits.Exceeded") => {
            match text.lines().find(|line| is_other_find(line)) {
                Some(line) => Answer::Hit(line.trim().to_owned()),
                None => Answer::Stopped("a file is beyond its limits".to_owned()),
            }
        }
        Reading::ClamAv => by_code(of, code, text),
        Reading::Picklescan => picklescan(of, code, text),
        Reading::Modelscan => modelscan(of, code, text),
    }
}

fn by_code(of: &External, code: i32, text: &str) -> Answer {
    match code {
        _ if of.hit.contains(&code) => Answer::Hit(hit(text).to_owned()),
        _ if of.unknown.contains(&code) => Answer::Unknown,
        _ if of.clean.contains(&code) => Answer::Clean,
        _ => Answer::Stopped(format!("it ended with exit code {code}")),
    }
}

fn is_other_find(line: &str) -> bool {
    line.trim_end().ends_with("FOUND") && !line.contains("Heuristics.Limits.Exceeded")
}

/// Its words hold text of the file, which may look like its own: so any of them makes a hit, and only all of them together a pass.
fn picklescan(of: &External, code: i32, text: &str) -> Answer {
    let counts = || {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Dangerous globals:"))
            .map(str::trim)
    };
    let is_hit = of.hit.contains(&code)
        || counts().any(|count| count != "0")
        || text.lines().any(|line| line.contains(": dangerous import "));
    match code {
        _ if is_hit => Answer::Hit(hit(text).to_owned()),
        _ if !of.clean.contains(&code) => Answer::Stopped(format!("it ended with exit code {code}")),
        _ if counts().next().is_none() => Answer::Stopped("it did not say what it found".to_owned()),
        // What it could not parse it did not look through; parts of archives that it skips are told in such lines as well.
        _ if text.contains("could not parse") || text.contains("Invalid file ") => Answer::Unknown,
        _ => Answer::Clean,
    }
}

/// Its JSON is broken into lines at spaces, wherever they are.
fn modelscan(of: &External, code: i32, text: &str) -> Answer {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let has_issues = text
        .split("\"total_issues\": ")
        .skip(1)
        .any(|rest| !rest.starts_with("0,"));
    if !has_issues && !of.hit.contains(&code) {
        return by_code(of, code, &text);
    }
    let described = text.split_once("\"description\": \"");
    let words = described.map_or(hit(&text), |(_, rest)| {
        rest.split_once('"').map_or(rest, |(words, _)| words)
    });
    Answer::Hit(words.to_owned())
}

/// The line of a scanner's output that tells what it found: the first that ends in `FOUND`, as two of them write it, or else the
/// first.
fn hit(text: &str) -> &str {
    let line = |is: fn(&str) -> bool| text.lines().map(str::trim).find(|line| is(line));
    line(|line| line.ends_with("FOUND"))
        .or_else(|| line(|line| !line.is_empty()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(name: &str) -> External {
        External::of(&Path::new("/opt").join(name), None).unwrap()
    }

    const SUMMARY: &str =
        "----------- SCAN SUMMARY -----------\nScanned files: 1\nInfected files: 0\nDangerous globals: ";

    #[test]
    fn picklescan_finds_before_it_fails_and_counts_for_pickles_only() {
        let says = |code, text: String| answer(&of("picklescan"), code, &text);
        let broken = "ERROR: parsing pickle in file: opcode b'\\xff' unknown\nfile: dangerous import 'os system' FOUND\n";
        let hit = Answer::Hit("file: dangerous import 'os system' FOUND".into());
        for code in [0, 1, 2] {
            assert_eq!(says(code, format!("{broken}{SUMMARY}1\n")), hit);
        }
        assert!(matches!(says(0, format!("{SUMMARY}2\n")), Answer::Hit(_)));
        assert_eq!(says(0, format!("{SUMMARY}0\n")), Answer::Clean);
        let unread = "WARNING: could not parse file as pickle: at position 0\n";
        assert_eq!(says(0, format!("{unread}{SUMMARY}0\n")), Answer::Unknown);
        assert!(matches!(says(2, format!("{SUMMARY}0\n")), Answer::Stopped(_)));
        assert!(matches!(says(0, String::new()), Answer::Stopped(_)));
    }

    #[test]
    fn modelscan_finds_before_it_fails() {
        let found = "{\"summary\": {\"total_issues_by_severity\": {\"LOW\": 0,\n\"CRITICAL\": 1}, \"total_issues\":\n1, \"x\": 0}, \
            \"issues\": [{\"description\": \"Use of unsafe\noperator\", \"a\": 1}]}";
        let says = |code, text: &str| answer(&of("modelscan"), code, text);
        for code in [0, 1, 2, 3] {
            assert_eq!(says(code, found), Answer::Hit("Use of unsafe operator".into()));
        }
        let clean = "{\"summary\": {\"total_issues\": 0, \"x\": 0}, \"issues\": []}";
        assert_eq!(says(0, clean), Answer::Clean);
        assert_eq!(says(3, clean), Answer::Unknown);
        assert!(matches!(says(2, clean), Answer::Stopped(_)));
        assert!(matches!(says(1, clean), Answer::Hit(_)));
    }

    #[test]
    fn a_limit_of_clamav_is_no_finding() {
        let says = |text: &str| answer(&of("clamscan"), 1, text);
        let limit = "stdin: Heuristics.Limits.Exceeded.MaxScanTime FOUND\n";
        assert!(matches!(says(limit), Answer::Stopped(_)));
        let both = format!("{limit}stdin: Test.Mark FOUND\n");
        assert_eq!(says(&both), Answer::Hit("stdin: Test.Mark FOUND".into()));
    }
}

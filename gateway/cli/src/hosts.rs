//! Evaluations on other hosts that a verifier told of before: told again with each report, because a gateway keeps the last one.

use std::collections::{BTreeMap, BTreeSet};

use alephlab_api::time;
use alephlab_verify::{Check, CheckId, Finding, Outcome, Report, Tool, VerifyError};

/// Runs on other hosts that are told again.
const HOSTS_KEPT: usize = 15;

/// The report with the evaluations on other hosts that reports of the same files told of before, oldest first. One that failed there
/// goes on to be told. Of this host only a run that is made now counts anew; where none is made, or it has no name, all are told.
pub(crate) fn with_other_hosts(report: Report, before: &[Report]) -> Result<Report, VerifyError> {
    let Some(check) = report.check(CheckId::V8).cloned() else {
        return Ok(report);
    };
    let ran_here = check.tools.first().and_then(|run| run.host.as_deref());
    let mut told = runs_told(before);
    told.retain(|run, _| Some(run.as_str()) != ran_here);
    if told.is_empty() {
        return Ok(report);
    }
    let mut runs: Vec<(Tool, Vec<Finding>)> = told.into_values().collect();
    // Those that say no are the last to be left out.
    runs.sort_by_key(|(run, _)| run.outcome != Outcome::Failed);
    runs.truncate(HOSTS_KEPT);
    let failed = runs.iter().any(|(run, _)| run.outcome == Outcome::Failed);
    let outcome = match check.outcome {
        _ if failed => Outcome::Failed,
        Outcome::NotRun => Outcome::Passed,
        outcome => outcome,
    };
    let mut findings: BTreeSet<Finding> = match check.outcome {
        // Why it was not run here is nothing to hold against other hosts.
        Outcome::NotRun => BTreeSet::new(),
        _ => check.findings.into_iter().collect(),
    };
    let failures = runs.iter().filter(|(run, _)| run.outcome == Outcome::Failed);
    findings.extend(failures.flat_map(|(_, findings)| findings.iter().cloned()));
    let version = concat!("alephlab ", env!("CARGO_PKG_VERSION")).to_owned();
    let mut all = Check::new(
        CheckId::V8,
        outcome,
        findings.into_iter().collect(),
        version,
        time::now(),
    );
    all.tools = check.tools;
    all.tools.extend(runs.into_iter().map(|(run, _)| run));
    report.with_outside(all)
}

/// The report with what reports of the same files told last of loading them, where nothing was run now: that it loads is as true as it
/// was, and a gateway keeps the last report alone.
pub(crate) fn with_earlier_loading(report: Report, before: &[Report]) -> Result<Report, VerifyError> {
    let ran = |check: &&Check| check.outcome != Outcome::NotRun;
    let mut told = before.iter().rev().filter_map(|report| report.check(CheckId::V5));
    match (report.check(CheckId::V5).filter(ran), told.find(ran)) {
        (None, Some(earlier)) => report.with_outside(earlier.clone()),
        _ => Ok(report),
    }
}

/// The newest run on each host, with what was found then. A report tells runs of earlier ones again, so that a run is as old as the
/// first report that tells of it.
fn runs_told(reports: &[Report]) -> BTreeMap<String, (Tool, Vec<Finding>)> {
    let (mut seen, mut newest): (Vec<&Tool>, _) = (Vec::new(), BTreeMap::new());
    for check in reports.iter().filter_map(|report| report.check(CheckId::V8)) {
        for run in &check.tools {
            let Some(host) = run.host.clone().filter(|_| !seen.contains(&run)) else {
                continue;
            };
            seen.push(run);
            newest.insert(host, (run.clone(), check.findings.clone()));
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of runs, each by its host, its number and how it ended.
    fn report(runs: &[(&str, u32, Outcome)]) -> Report {
        let failed = runs.iter().any(|(.., outcome)| *outcome == Outcome::Failed);
        let (outcome, findings) = match runs {
            [] => (Outcome::NotRun, Vec::new()),
            _ if failed => (Outcome::Failed, vec![finding()]),
            _ => (Outcome::Passed, Vec::new()),
        };
        let mut check = Check::new(CheckId::V8, outcome, findings, "1".into(), "then".into());
        let tool = |(host, number, outcome): &(&str, u32, Outcome)| Tool {
            name: "evaluation.ipynb".into(),
            version: number.to_string(),
            outcome: *outcome,
            host: (!host.is_empty()).then(|| (*host).to_owned()),
        };
        check.tools = runs.iter().map(tool).collect();
        Report::new("m".into(), vec![check])
    }

    fn finding() -> Finding {
        Finding {
            file: String::new(),
            what: "x".into(),
            why: "it gave something else".into(),
            hint: "y".into(),
        }
    }

    #[test]
    fn no_order_of_reports_loses_a_run_on_another_host() {
        use Outcome::{Failed, Passed};
        let told = |now: &[(&str, u32, Outcome)], before: &[Report]| {
            let report = with_other_hosts(report(now), before).unwrap();
            let check = report.check(CheckId::V8).unwrap().clone();
            let hosts: Vec<_> = check.tools.iter().filter_map(|run| run.host.clone()).collect();
            (check.outcome, hosts.join(" "))
        };
        let said = |outcome, hosts: &str| (outcome, hosts.to_owned());
        let (a, b) = (report(&[("a", 1, Passed)]), report(&[("b", 2, Passed)]));
        let b_failed = report(&[("b", 3, Failed)]);
        let nothing = report(&[]);
        // Both runs at once, neither of which saw the other.
        let both = [a.clone(), b.clone()];
        assert_eq!(told(&[("c", 9, Passed)], &both), said(Passed, "c a b"));
        // A failure is not lost by a report without runs, nor where this host runs again, has no name or runs nothing.
        let failed = [b_failed.clone(), nothing, a];
        assert_eq!(told(&[("a", 4, Passed)], &failed), said(Failed, "a b"));
        assert_eq!(told(&[("", 4, Passed)], &failed), said(Failed, "b a"));
        assert_eq!(told(&[], &failed), said(Failed, "b a"));
        assert_eq!(told(&[], &both), said(Passed, "a b"));
        // A host that could repeat it later takes its own word back, also where an old run is told again after that.
        let again = [b_failed, b, report(&[("a", 5, Passed), ("b", 3, Failed)])];
        assert_eq!(told(&[("a", 6, Passed)], &again), said(Passed, "a b"));
        assert_eq!(told(&[], &[]), said(Outcome::NotRun, ""));
    }

    #[test]
    fn what_was_loaded_before_is_told_again_and_never_in_place_of_what_was_run_now() {
        use Outcome::{Failed, NotRun, Passed};
        let report = |outcome| {
            let findings = if outcome == Failed {
                vec![finding()]
            } else {
                Vec::new()
            };
            let check = Check::new(CheckId::V5, outcome, findings, "1".into(), format!("{outcome:?}"));
            Report::new("m".into(), vec![check])
        };
        let told = |now, before: &[Outcome]| {
            let before: Vec<_> = before.iter().copied().map(report).collect();
            let made = with_earlier_loading(report(now), &before).unwrap();
            let check = made.check(CheckId::V5).unwrap();
            (check.outcome, check.date.clone())
        };
        let said = |outcome| (outcome, format!("{outcome:?}"));
        assert_eq!(told(NotRun, &[Failed, Passed, NotRun]), said(Passed));
        assert_eq!(told(NotRun, &[Passed, Failed]), said(Failed));
        assert_eq!(told(Failed, &[Passed]), said(Failed));
        assert_eq!(told(NotRun, &[NotRun]), said(NotRun));
    }
}

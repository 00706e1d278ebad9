//! `aither-cli validate`: everything that is wrong with an agent's file, without a node.

use std::path::Path;

use serde::Serialize;

use crate::{
    agent_dir::{self, AgentDir, Finding, SPEC_FILE},
    error::Error,
    render::{Output, clip},
};

/// Room for a message that repeats what the file says.
const FINDING_WIDTH_MAX: usize = 1024;

#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    errors: &'a [Finding],
    /// Fields that are ignored, if any are.
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    warnings: &'a [Finding],
}

/// Checks an agent's folder.
pub(crate) fn run(output: &Output, directory: &Path, json: bool) -> Result<(), Error> {
    let agent = AgentDir::new(directory);
    let checked = agent.read_card()?;
    let warnings = agent.unknown_fields()?;
    let findings = checked.as_ref().err().map_or(&[][..], Vec::as_slice);
    if json {
        let report = Report {
            valid: checked.is_ok(),
            errors: findings,
            warnings: &warnings,
        };
        let report = serde_json::to_string(&report)
            .expect("a report has neither maps nor numbers that JSON lacks");
        output.line(&report)?;
    } else {
        for finding in findings {
            output.line(&line(finding))?;
        }
        for warning in &warnings {
            output.line(&format!("{} (warning)", line(warning)))?;
        }
        if let Ok(card) = &checked {
            let (name, version) = (card.name.as_str(), &card.version);
            output.line(&format!("{SPEC_FILE} is valid: {name} {version}"))?;
        }
    }
    match checked {
        Ok(_) => Ok(()),
        Err(findings) => Err(agent_dir::invalid(&findings)),
    }
}

/// Returns a finding as one line, whatever keys the file made up.
pub(super) fn line(finding: &Finding) -> String {
    clip(&finding.to_string(), FINDING_WIDTH_MAX)
}

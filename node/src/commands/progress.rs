//! Progress of long work on standard error: a bar on a terminal, a few plain lines elsewhere.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{config::units::rounded_size, models::PullProgress};

/// Plain lines come at each of so many parts of the whole.
const PLAIN_STEPS: u64 = 10;
/// Without a known size, a plain line comes per so many bytes.
const PLAIN_BYTES: u64 = 64 << 20;

/// Shows how far a pull or an import is.
#[derive(Debug)]
pub struct ProgressPrinter {
    bar: Option<ProgressBar>,
    status: String,
    step: Option<u64>,
}

impl Default for ProgressPrinter {
    fn default() -> Self {
        Self {
            bar: io::stderr().is_terminal().then(ProgressBar::no_length),
            status: String::new(),
            step: None,
        }
    }
}

impl ProgressPrinter {
    /// Shows one report.
    pub fn show(&mut self, progress: &PullProgress) {
        match &self.bar {
            Some(_) => self.show_bar(progress),
            None => self.show_line(progress),
        }
    }

    /// Takes the bar away, so that what follows stands on a line of its own.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show_bar(&mut self, progress: &PullProgress) {
        let Some(bar) = &self.bar else {
            return;
        };
        if self.status != progress.status {
            self.status.clone_from(&progress.status);
            bar.set_style(style(progress));
            bar.set_message(progress.status.clone());
            bar.reset_eta();
        }
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.completed.unwrap_or_default());
    }

    fn show_line(&mut self, progress: &PullProgress) {
        let completed = progress.completed.unwrap_or_default();
        let step = match progress.total {
            Some(total) if total > 0 => completed.saturating_mul(PLAIN_STEPS) / total,
            _ => completed / PLAIN_BYTES,
        };
        if self.status == progress.status && self.step == Some(step) {
            return;
        }
        self.status.clone_from(&progress.status);
        self.step = Some(step);
        let line = match (progress.completed, progress.total) {
            (Some(completed), Some(total)) => format!(
                "{}: {} of {}",
                progress.status,
                rounded_size(completed),
                rounded_size(total)
            ),
            (Some(completed), None) => format!("{}: {}", progress.status, rounded_size(completed)),
            _ => progress.status.clone(),
        };
        // Without standard error nobody is watching.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn style(progress: &PullProgress) -> ProgressStyle {
    let template = match (progress.completed, progress.total) {
        (Some(_), Some(_)) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Some(_), None) => "{msg} {spinner} {bytes} {bytes_per_sec}",
        _ => "{msg} {spinner}",
    };
    // The templates are constants that a test has seen to parse.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

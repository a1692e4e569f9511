//! How log lines look, where they go, and which are written.
//!
//! A filter is what `tracing` takes: `warn`, or levels per module as `info,device_server::dma=debug`, or of one device as
//! `warn,[device{id="net"}]=debug`.

use std::fs::File;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::device;
use crate::journal::Journal;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// Records of systemd's journal, with fields of their own.
    Journald,
}

impl Format {
    /// The names on the command line.
    pub const NAMES: [&str; 3] = ["text", "json", "journald"];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
            Format::Journald => "journald",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            "journald" => Ok(Format::Journald),
            _ => Err(format!("{text}: write {}", Format::NAMES.join(", "))),
        }
    }
}

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// The end of a file.
    File(File),
    /// The journal.
    Journal(Journal),
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be understood.
    #[error(
        "log level {filter}: write error, warn, info, debug, trace, or levels per module as in info,MODULE=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// Why, if `tracing` says so.
        #[source]
        source: Option<ParseError>,
    },
    /// The journal is not there.
    #[error(
        "log format journald: systemd's journal cannot be reached; is this a host with systemd?"
    )]
    Journal(#[source] io::Error),
    /// There is one already.
    #[error("start the log")]
    Start(#[source] TryInitError),
}

/// Whether `filter` can be understood.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse(filter).map(|_| ())
}

/// The output that fits `format`, if it is not a file.
pub fn output(format: Format) -> Result<Output, LogError> {
    match format {
        Format::Text | Format::Json => Ok(Output::Stderr),
        Format::Journald => Journal::connect()
            .map(Output::Journal)
            .map_err(LogError::Journal),
    }
}

/// Starts the log of this process. `format` decides between text and JSON; the journal has its own.
pub fn start(filter: &str, format: Format, output: Output) -> Result<(), LogError> {
    let filter = parse(filter)?;
    let writer = match output {
        Output::Journal(journal) => {
            let log = tracing_subscriber::registry().with(filter).with(journal);
            return log.try_init().map_err(LogError::Start);
        }
        Output::Stderr => BoxMakeWriter::new(io::stderr),
        Output::File(file) => BoxMakeWriter::new(Arc::new(file)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written is no reason to die.
        .log_internal_errors(false)
        .with_writer(writer);
    match format {
        Format::Json => log.json().with_span_list(false).finish().try_init(),
        Format::Text | Format::Journald => log.with_ansi(false).finish().try_init(),
    }
    .map_err(LogError::Start)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    };
    // `tracing` takes a word that is no level for a module, and logs everything of it: it is more likely a mistake.
    let mistaken = |part: &str| !part.contains(['=', '[']) && LevelFilter::from_str(part).is_err();
    if filter.split(',').any(mistaken) {
        return Err(wrong(None));
    }
    let whole = format!("{filter},{}=error", device::TARGET);
    EnvFilter::try_new(whole).map_err(|source| wrong(Some(source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_is_a_level_or_levels_per_module() {
        for filter in [
            "warn",
            "info,device_server::dma=debug",
            "off",
            "warn,[device{id=\"net\"}]=debug",
        ] {
            check_filter(filter).unwrap();
        }
        for filter in ["loud", "info,loud", "vmm=loud"] {
            let error = check_filter(filter).unwrap_err().to_string();
            let start = format!("log level {filter}: write error, warn,");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn format_has_the_names_it_says() {
        for name in Format::NAMES {
            assert_eq!(name.parse::<Format>().unwrap().name(), name);
        }
        assert!(
            "xml"
                .parse::<Format>()
                .unwrap_err()
                .contains("text, json, journald")
        );
    }
}

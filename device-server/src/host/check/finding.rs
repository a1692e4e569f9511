//! One line of `host check`.

use serde_json::json;

/// How bad it is. The exit status of `host check` is the worst of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// It works, but something is missing or risky.
    Warning,
    /// It does not work.
    Blocked,
}

impl Level {
    /// As printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Blocked => "blocked",
        }
    }

    /// The exit status of the program.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Blocked => 2,
        }
    }
}

/// What was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// What was looked at: "iommu", "reset".
    pub(crate) subject: &'static str,
    /// What was found.
    pub(crate) text: String,
    /// What to do; empty where there is nothing to do.
    pub(crate) advice: String,
}

impl Finding {
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            level: Level::Ok,
            subject,
            text: text.into(),
            advice: String::new(),
        }
    }

    pub(super) fn warning(
        subject: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            level: Level::Warning,
            subject,
            text: text.into(),
            advice: advice.into(),
        }
    }

    pub(super) fn blocked(
        subject: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            level: Level::Blocked,
            ..Finding::warning(subject, text, advice)
        }
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        json!({
            "level": self.level.name(),
            "subject": self.subject,
            "text": self.text,
            "advice": self.advice,
        })
    }
}

//! Named samples, and how they are shown: median and spread, as a table and as JSON.

use anyhow::{Result, ensure};
use serde_json::json;

/// One measured quantity.
#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    limit: Option<Limit>,
}

/// What the median must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    /// For a ratio to a peer. A quarter of the pairs at or below 1.0 is enough: such a spread includes or beats 1.0.
    NotSlower,
}

impl Limit {
    fn allows(self, figure: &Figure) -> bool {
        let value = figure.at(2);
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
            Self::NotSlower => figure.at(1) <= 1.0,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::Below(limit) => format!("< {limit}"),
            Self::NotSlower => "quarter <= 1".to_owned(),
        }
    }
}

/// All figures of a run, in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
}

impl Figures {
    /// Adds a sample to the figure `name`.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, sample: f64) {
        self.figure(name, unit).samples.push(sample);
    }

    /// The median of the figure must keep to `limit`.
    pub(crate) fn limit(&mut self, name: &str, unit: &'static str, limit: Limit) {
        self.figure(name, unit).limit = Some(limit);
    }

    fn figure(&mut self, name: &str, unit: &'static str) -> &mut Figure {
        let index = self
            .all
            .iter()
            .position(|figure| figure.name == name)
            .unwrap_or_else(|| {
                self.all.push(Figure {
                    name: name.to_owned(),
                    unit,
                    samples: Vec::new(),
                    limit: None,
                });
                self.all.len() - 1
            });
        &mut self.all[index]
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<52} {:>10} {:>10} {:>10}  {:<6} {:>2}  limit\n",
            "figure", "median", "low", "high", "unit", "n"
        );
        for figure in &self.all {
            let (low, median, high) = figure.spread();
            let limit = figure.limit.map_or_else(String::new, |limit| {
                format!(
                    "{} {}",
                    limit.text(),
                    if limit.allows(figure) {
                        "kept"
                    } else {
                        "BROKEN"
                    }
                )
            });
            let count = figure.samples.len();
            let line = format!(
                "{:<52} {median:>10.2} {low:>10.2} {high:>10.2}  {:<6} {count:>2}  {limit}",
                figure.name, figure.unit
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Result<String> {
        let all: Vec<_> = self
            .all
            .iter()
            .map(|figure| {
                let (low, median, high) = figure.spread();
                json!({
                    "name": figure.name, "unit": figure.unit, "median": median, "low": low, "high": high,
                    "samples": figure.samples, "limit": figure.limit.map(Limit::text),
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(
            &json!({ "kernel": std::env::var("LAB_KERNEL").ok(), "figures": all }),
        )?)
    }

    /// An error that names the figures that break their limits.
    pub(crate) fn limits_kept(&self) -> Result<()> {
        let broken: Vec<&str> = self
            .all
            .iter()
            .filter(|figure| figure.limit.is_some_and(|limit| !limit.allows(figure)))
            .map(|figure| figure.name.as_str())
            .collect();
        ensure!(broken.is_empty(), "limits broken: {}", broken.join(", "));
        Ok(())
    }
}

impl Figure {
    /// The least, the middle and the greatest sample.
    fn spread(&self) -> (f64, f64, f64) {
        (self.at(0), self.at(2), self.at(4))
    }

    /// The sample below which so many quarters of the samples are.
    fn at(&self, quarters: usize) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() * quarters / 4).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

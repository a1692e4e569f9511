//! QMP with a VM, as a manual shows it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::qmp::Qmp;
use serde_json::Value;

use crate::document::Exchange;
use crate::shown::message_is_shown;

/// For an event: a guest that is emulated twice takes a device, or lets go of it.
const EVENT: Duration = Duration::from_secs(90);
const READY: &str = "BULKHEAD_DEVICE_READY";

/// Whether what comes must come in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    AsShown,
    Any,
}

/// The connection to one VM.
#[derive(Debug)]
pub(crate) struct Dialogue {
    qmp: Qmp,
    order: Order,
    guest_has_it: bool,
}

impl Dialogue {
    pub(crate) fn with(socket: &str, order: Order) -> Result<Dialogue> {
        Ok(Dialogue {
            qmp: Qmp::connect(socket)?,
            order,
            guest_has_it: true,
        })
    }

    /// Sends the request as it stands, and waits for what is shown.
    pub(crate) fn exchange(&mut self, exchange: &Exchange) -> Result<()> {
        // Whoever types the next request has seen the guest take the device.
        if !self.guest_has_it {
            self.qmp.wait_for_event(READY, EVENT)?;
            self.guest_has_it = true;
        }
        let before = self.qmp.order().len();
        self.qmp.send(&exchange.sent)?;
        let mut words = Vec::new();
        for text in &exchange.shown {
            let shown: Value = serde_json::from_str(text).with_context(|| text.clone())?;
            let event = shown["event"].as_str().map(str::to_owned);
            let came = match &event {
                None => self.qmp.answer()?,
                Some(name) => {
                    let data = self.qmp.wait_for_event(name, EVENT)?;
                    serde_json::json!({"event": name, "data": data})
                }
            };
            ensure!(message_is_shown(&shown, &came), "{text} and not {came}");
            words.push(event.unwrap_or_else(|| word_of(&shown).to_owned()));
        }
        if exchange.sent.contains("device_add") && words == ["return"] {
            self.guest_has_it = false;
        }
        if self.order == Order::AsShown {
            let order = self.qmp.order();
            let mut came = order.get(before..).unwrap_or_default().iter();
            let in_order = words.iter().all(|word| came.any(|one| one == word));
            ensure!(in_order, "in this order: {words:?}, and not {order:?}");
        }
        Ok(())
    }
}

fn word_of(answer: &Value) -> &'static str {
    if answer.get("return").is_some() {
        "return"
    } else {
        "error"
    }
}

//! What has happened to device servers, told to whoever has to know: the VMM, the log, the operator.

use std::time::Instant;

use protocol::pci::PciAddress;
use protocol::supervisor::Reply;
use telemetry::security::Event;

use super::{Connected, Notice, Watch};

impl Watch {
    pub(super) fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { attach, devices } => {
                self.hand_over(attach, devices, |number| Reply::Connected { number });
            }
            Notice::Started { attach, devices } => {
                self.hand_over(attach, devices, |number| Reply::Attached { number });
                self.attachments.spare.expect(Instant::now());
            }
            Notice::Failed {
                attach,
                ids,
                devices,
                reason,
                died,
            } => {
                let ids = ids.join(",");
                tracing::warn!(device = ids, reason, "A device server did not start");
                if let Some(ending) = died {
                    let hosts: Vec<_> = devices.iter().map(ToString::to_string).collect();
                    let message = "A device server died while it opened its device";
                    report_death(&ids, &hosts.join(","), &ending.to_string(), message);
                }
                if let Some(number) = attach {
                    let answers = self.attachments.refuse(&devices, number, &reason);
                    self.answer(answers);
                }
            }
            Notice::Lost { ids, hosts, ending } => {
                let message = "A device server died; its devices are lost to the VM";
                report_death(&ids.join(","), &hosts, &ending, message);
            }
            Notice::Finished { hosts } => {
                tracing::info!(
                    pci = hosts,
                    "A device server has ended after its clients had left"
                );
            }
            Notice::Ended {
                requests,
                devices,
                hosts,
            } => {
                tracing::info!(pci = hosts, "The host has its devices back");
                let answers = self.attachments.give_back(&devices, &requests);
                self.answer(answers);
            }
            Notice::Held {
                requests,
                devices,
                reason,
            } => self.on_held(&requests, &devices, &reason),
            Notice::VmmKeeps { hosts } => {
                if let Some(vmm) = &mut self.vmm {
                    eprintln!(
                        "bulkhead-vmm: the VMM does not let go of host device {hosts}, whose device server has ended: \
                         it is killed"
                    );
                    vmm.kill();
                }
            }
        }
    }

    fn on_held(&mut self, requests: &[u32], devices: &[PciAddress], reason: &str) {
        tracing::error!(reason, "The host does not have its devices back");
        self.attachments.managed.hold(devices);
        if self.vmm.is_none() {
            eprintln!("bulkhead-vmm: {reason}");
            self.status = 1;
        }
        for number in requests {
            self.reply(&Reply::held(*number, reason), None);
        }
        // A server that never served is held too: whoever asked for it need not wait for that.
        let answers = self.attachments.back(devices, &[]);
        self.answer(answers);
    }

    /// Tells who asked for a device, with its socket, unless it has that.
    fn hand_over(
        &mut self,
        attach: Option<u32>,
        devices: Vec<Connected>,
        reply: impl FnOnce(u32) -> Reply,
    ) {
        let socket = devices.into_iter().map(|(_, socket)| socket).next();
        if let Some(number) = attach {
            self.reply(&reply(number), socket);
        }
    }
}

fn report_death(ids: &str, hosts: &str, ending: &str, message: &'static str) {
    Event::ServerDied.report(Some((ids, hosts)), "device server", ending, message);
}

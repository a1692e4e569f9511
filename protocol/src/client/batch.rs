//! Several questions at once: all are sent before the first answer is waited for.
//!
//! Each has a ticket and a deadline of its own, as any request, so answers may come in another order, and one that does not come loses the
//! device. The thread that asks leads until it has all.
//! Limit: `MAX_QUESTIONS` in flight.

use super::engine::{Call, Engine, answered};
use super::error::ClientError;
use super::in_flight::{Lead, Ticket};
use crate::header::HeaderFlags;
use crate::limits::MAX_QUESTIONS;
use crate::received_fd::ReceivedFd;
use crate::refusal::BadField;

/// Which question got no answer that can be used, counted from 0, and why.
pub(super) type Unanswered = (usize, ClientError);

impl Engine {
    /// Sends these requests and hands each answer to `read`, with the number of its request. Whatever happens to one, the others are answered.
    pub(super) fn call_each<R>(
        &self,
        calls: &[Call<'_>],
        mut read: impl FnMut(usize, &[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<Vec<R>, Unanswered> {
        let mut answers = Vec::new();
        for batch in calls.chunks(MAX_QUESTIONS) {
            let first = answers.len();
            let mut lead = None;
            let asked: Vec<_> = (batch.iter())
                .map(|call| self.ask(call, &mut lead))
                .collect();
            let asked: Vec<_> = (first..)
                .zip(asked)
                .map(|(number, ticket)| {
                    let ticket = ticket.map_err(|error| (number, error))?;
                    let answer =
                        self.answer(&ticket, &mut lead, |body, fds| read(number, body, fds));
                    answer.map_err(|error| (number, error))
                })
                .collect();
            if let Some(lead) = lead {
                self.in_flight.stop_leading(lead);
            }
            for answer in asked {
                answers.push(answer?);
            }
        }
        Ok(answers)
    }

    /// Sends one, once this thread leads.
    fn ask(&self, call: &Call<'_>, lead: &mut Option<Lead>) -> Result<Ticket, ClientError> {
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        let (ticket, taken) = self.ticket(call)?;
        if lead.is_none() {
            *lead = Some(match taken {
                Some(lead) => lead,
                None => self.await_lead(&ticket)?,
            });
        }
        let sent = self.send(call, ticket.id, HeaderFlags::COMMAND, &mut || ());
        sent.map_err(|cause| {
            self.in_flight.abandon(&ticket);
            ClientError::Lost(cause)
        })?;
        Ok(ticket)
    }

    fn answer<R>(
        &self,
        ticket: &Ticket,
        lead: &mut Option<Lead>,
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        let command = ticket.command;
        // It may have come before that of an earlier question.
        let result = if let Some(answer) = self.in_flight.collect(ticket) {
            answered(command, answer.result, || read(&answer.body, answer.fds))
        } else {
            self.read_answer(ticket, lead, read)
        };
        self.in_flight.abandon(ticket);
        if let Err(ClientError::Refused { command, .. }) = result {
            self.counters.count_refused(command);
        }
        result
    }

    fn read_answer<R>(
        &self,
        ticket: &Ticket,
        lead: &mut Option<Lead>,
        read: impl FnOnce(&[u8], Vec<ReceivedFd>) -> Result<R, BadField>,
    ) -> Result<R, ClientError> {
        if let Some(cause) = self.lost() {
            return Err(ClientError::Lost(cause));
        }
        // Whoever has sent a question leads.
        let lead = match lead {
            Some(lead) => lead,
            None => lead.insert(self.await_lead(ticket)?),
        };
        let header = self.lead(lead, ticket).map_err(ClientError::Lost)?;
        let frame = lead.take(header);
        let failed = header.flags.error();
        let result = if failed { Err(header.errno()) } else { Ok(()) };
        answered(ticket.command, result, || read(frame.body, frame.fds))
    }
}

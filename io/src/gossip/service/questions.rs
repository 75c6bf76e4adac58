//! Questions about a height, to peers and from them.

use std::{collections::BTreeSet, io};

use bytes::Bytes;
use libp2p::{PeerId, request_response};
use tokio::time::Instant;

use super::{
    super::{
        FetchError, Fetched, PeerClass, Topic,
        asking::Ended,
        conduct::Offence,
        exchange::{self, Entry, Request, Response, TOPICS_MAX},
    },
    Peer, Question, Service,
};

/// Bytes that an answer holds.
fn size(response: &Response) -> usize {
    response.entries.iter().map(|entry| entry.message.len()).sum()
}

impl Service {
    pub(super) fn ask(&mut self, question: Question) {
        if self.questions.len() >= self.config.bounds.requests_in_flight {
            return drop(question.answer.send(Err(FetchError::Busy)));
        }
        let peers = &self.peers;
        // Who does not follow a rollup has nothing of it.
        let follows_all = |peer: &PeerId| {
            peers.get(peer).is_some_and(|peer| question.topics.iter().all(|topic| peer.topics.contains(topic)))
        };
        let follows_any = |peer: &PeerId| {
            peers.get(peer).is_some_and(|peer| question.topics.iter().any(|topic| peer.topics.contains(topic)))
        };
        let now = Instant::now();
        let chosen = self.asking.choose(question.height, now, follows_all);
        let chosen = chosen.or_else(|| self.asking.choose(question.height, now, follows_any));
        let Some(peer) = chosen else { return drop(question.answer.send(Err(FetchError::NoPeer))) };
        let topics =
            question.topics.iter().take(TOPICS_MAX).map(|topic| self.names.topic(*topic).to_string()).collect();
        let request = Request { height: question.height, topics };
        let id = self.swarm.behaviour_mut().exchange.send_request(&peer, request);
        // It may be gone when it fails.
        let class = self.peers.get(&peer).map_or(PeerClass::Inbound, |peer| peer.class);
        self.questions.insert(id, (class, question));
    }

    pub(super) fn on_exchange(&mut self, event: exchange::Event) {
        use request_response::{Event, Message, OutboundFailure};
        match event {
            Event::Message { peer, message: Message::Request { request_id, request, channel }, .. } => {
                let response = self.answer(peer, &request);
                self.answering.began(request_id, peer, size(&response));
                // Gone meanwhile: no harm done.
                if self.swarm.behaviour_mut().exchange.send_response(channel, response).is_err() {
                    self.answering.ended(&request_id);
                }
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                if let Some((class, question)) = self.questions.remove(&request_id) {
                    self.answered(peer, class, question, &response);
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                let Some((class, question)) = self.questions.remove(&request_id) else { return };
                self.counters.requests_failed += 1;
                self.counters.classes.of_mut(class).failures += 1;
                self.asking.ended(&peer, Ended::Failed, Instant::now());
                match &error {
                    OutboundFailure::Timeout => self.blame(peer, Offence::Silence),
                    OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                        self.blame(peer, Offence::Garbage);
                    }
                    OutboundFailure::UnsupportedProtocols => self.asking.remove(&peer),
                    // The connection broke, which is nobody's fault.
                    OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => {}
                }
                let problem = format!("did not answer: {error}");
                drop(question.answer.send(Err(FetchError::Failed { peer, problem })));
            }
            Event::InboundFailure { request_id, .. } | Event::ResponseSent { request_id, .. } => {
                self.answering.ended(&request_id);
            }
        }
    }

    /// What this node holds, for a peer that asks.
    fn answer(&mut self, peer: PeerId, request: &Request) -> Response {
        let (lowest, highest) = self.history.range().unwrap_or_default();
        let mut response = Response { is_busy: false, lowest, highest, entries: Vec::new() };
        let is_explicit = self.swarm.behaviour().gate.is_explicit(&peer);
        if !is_explicit && !self.rate.take(peer, Instant::now()) {
            self.counters.requests_refused += 1;
            self.of_class(&peer).requests_refused += 1;
            response.is_busy = true;
            return response;
        }
        let topics: BTreeSet<Topic> =
            request.topics.iter().take(TOPICS_MAX).filter_map(|name| self.names.parse_name(name)).collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let found = self.history.find(request.height, &topics, self.config.bounds.response_bytes);
        let entry = |(topic, message)| Entry { topic: self.names.topic(topic).to_string(), message };
        response.entries = found.into_iter().map(entry).collect();
        if !self.answering.has_room(&peer, size(&response)) {
            self.counters.requests_refused += 1;
            self.of_class(&peer).requests_refused += 1;
            return Response { is_busy: true, entries: Vec::new(), ..response };
        }
        self.counters.requests_served += 1;
        self.of_class(&peer).requests_served += 1;
        response
    }

    fn answered(&mut self, peer: PeerId, class: PeerClass, question: Question, response: &Response) {
        let now = Instant::now();
        let failed = |problem: &str| Err(FetchError::Failed { peer, problem: problem.to_owned() });
        let result = if response.is_busy {
            self.asking.ended(&peer, Ended::Later, now);
            self.counters.requests_failed += 1;
            self.counters.classes.of_mut(class).failures += 1;
            failed("was asked too often")
        } else if let Some(messages) = self.read_entries(&question, &response.entries) {
            let range = (response.highest > 0).then_some((response.lowest, response.highest));
            self.asking.ended(&peer, Ended::Answered { range }, now);
            self.counters.classes.of_mut(class).answers += 1;
            match self.peers.get(&peer) {
                Some(Peer { number, .. }) => Ok(Fetched { peer: *number, messages }),
                None => failed("went away"),
            }
        } else {
            self.asking.ended(&peer, Ended::Failed, now);
            self.counters.requests_failed += 1;
            self.counters.classes.of_mut(class).failures += 1;
            self.blame(peer, Offence::Garbage);
            failed("answered something else than was asked")
        };
        drop(question.answer.send(result));
    }

    /// What can be told of an answer without verifying it: each entry is about the height, in a topic that was asked for.
    fn read_entries(&self, question: &Question, entries: &[Entry]) -> Option<Vec<(Topic, Bytes)>> {
        let mut wanted: BTreeSet<Topic> = question.topics.iter().copied().collect();
        let mut messages = Vec::new();
        for Entry { topic, message } in entries {
            let topic = self.names.parse_name(topic).filter(|topic| wanted.remove(topic))?;
            if message.len() > self.config.bounds.message_bytes {
                return None;
            }
            (self.read_label)(topic, message).filter(|label| label.height == question.height)?;
            messages.push((topic, message.clone()));
        }
        Some(messages)
    }
}

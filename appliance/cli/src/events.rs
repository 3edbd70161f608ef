//! Events, as they happen: `text/event-stream` (WHATWG HTML, 9.2).

use std::fmt;
use std::io::{BufRead, BufReader};

use api::Event;

use crate::client::Client;
use crate::error::Error;

/// A stream of events. It ends when the appliance ends it.
pub struct Events {
    client: Client,
    reader: BufReader<ureq::BodyReader<'static>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(client: Client, reader: ureq::BodyReader<'static>) -> Self {
        Self {
            client,
            reader: BufReader::new(reader),
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(why) => return Some(Err(self.client.unreachable(why))),
            }
            // Each event is one line of data here; its number and type are in it too.
            if let Some(data) = line.strip_prefix("data:") {
                return Some(
                    serde_json::from_str(data.trim())
                        .map_err(|why| Error::Protocol(why.to_string())),
                );
            }
        }
    }
}

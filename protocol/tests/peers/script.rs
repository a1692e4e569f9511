//! A client of this crate against a script that plays the server.

use super::RawPeer;
use protocol::{Client, ClientConfig, ClientError, RegionIndex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Short, so that tests of deadlines are; long enough for a busy machine.
pub const DEADLINE: Duration = Duration::from_millis(500);

pub fn config() -> ClientConfig {
    ClientConfig {
        access_deadline: DEADLINE,
        reset_deadline: 4 * DEADLINE,
        ..ClientConfig::standard()
    }
}

/// A client that is connected to a script. The script has negotiated; it ends by closing its socket.
pub fn client_of(script: impl FnOnce(&RawPeer) + Send + 'static) -> (Client, JoinHandle<()>) {
    let (client, thread) = connect(config(), |peer| {
        peer.accept();
        script(peer);
    });
    (client.unwrap(), thread)
}

/// What comes of connecting to a script that does everything itself.
pub fn connect(
    config: ClientConfig,
    script: impl FnOnce(&RawPeer) + Send + 'static,
) -> (Result<Client, ClientError>, JoinHandle<()>) {
    let (peer, socket) = RawPeer::pair();
    let thread = std::thread::spawn(move || script(&peer));
    (Client::connect(socket, config), thread)
}

/// Reads 4 bytes of BAR0.
pub fn read(client: &Client) -> Result<[u8; 4], ClientError> {
    let mut data = [0xaa; 4];
    client
        .region_read(RegionIndex::BAR0, 0, &mut data)
        .map(|()| data)
}

/// The connection works: for scripts that end with `serve_reads`.
pub fn expect_alive(client: &Client) {
    assert_eq!(read(client), Ok([0; 4]));
}

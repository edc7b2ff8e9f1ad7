//! One session between two nodes: what a handshake left.

use super::frame;
use super::window::Window;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, StatelessTransportState};
use vipd_core::time::Time;

/// Both ends prove that they have the key, and throw-away keys keep what was
/// said secret should the key get known later.
pub(super) const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// What a seal adds (Poly1305).
const TAG: usize = 16;
/// The longest message of a handshake: a key, what it carries, a tag.
const HANDSHAKE: usize = 32 + 16 + TAG;

/// The secret of two nodes, and who is who in a handshake.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) secret: [u8; 32],
    /// Of handshakes that this node begins.
    pub(super) ours: Vec<u8>,
    /// Of handshakes that the other begins.
    pub(super) theirs: Vec<u8>,
}

impl Pair {
    fn builder<'a>(&'a self, prologue: &'a [u8]) -> Result<Builder<'a>, snow::Error> {
        let params: NoiseParams = PATTERN.parse()?;
        Builder::new(params).psk(0, &self.secret)?.prologue(prologue)
    }

    pub(super) fn initiator(&self) -> Result<HandshakeState, snow::Error> {
        self.builder(&self.ours)?.build_initiator()
    }

    pub(super) fn responder(&self) -> Result<HandshakeState, snow::Error> {
        self.builder(&self.theirs)?.build_responder()
    }
}

/// Writes the next message of a handshake.
pub(super) fn write(handshake: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, snow::Error> {
    let mut message = vec![0; HANDSHAKE];
    let length = handshake.write_message(payload, &mut message)?;
    message.truncate(length);
    Ok(message)
}

/// Reads the other's message; what it carries has this length, or it is wrong.
pub(super) fn read<const N: usize>(handshake: &mut HandshakeState, message: &[u8]) -> Option<[u8; N]> {
    let mut payload = [0; HANDSHAKE];
    if message.len() > HANDSHAKE {
        return None;
    }
    let length = handshake.read_message(message, &mut payload).ok()?;
    payload.get(..length)?.try_into().ok()
}

/// Which run of a node a handshake is of, and which of that run's.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Serial {
    pub(super) epoch: u32,
    pub(super) number: u64,
}

impl Serial {
    pub(super) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[4..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, number @ ..] = bytes;
        Self { epoch: u32::from_be_bytes([a, b, c, d]), number: u64::from_be_bytes(number) }
    }
}

/// Keys for both directions, and which numbers were used.
#[derive(Debug)]
pub(super) struct Session {
    /// What this node calls it.
    pub(super) local: u32,
    /// What the other calls it.
    remote: u32,
    transport: StatelessTransportState,
    received: Window,
    pub(super) sent: u64,
    pub(super) begun: Time,
    /// This node asked for it.
    pub(super) ours: bool,
    /// The other's.
    pub(super) serial: Serial,
}

/// Why a sealed message was not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Closed {
    Replay,
    Forged,
}

impl Session {
    pub(super) fn new(
        handshake: HandshakeState,
        (local, remote): (u32, u32),
        serial: Serial,
        now: Time,
    ) -> Result<Self, snow::Error> {
        let ours = handshake.is_initiator();
        let transport = handshake.into_stateless_transport_mode()?;
        let received = Window::default();
        Ok(Self { local, remote, transport, received, sent: 0, begun: now, ours, serial })
    }

    /// The datagram that carries a message.
    pub(super) fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, snow::Error> {
        let mut datagram = frame::data_header(self.remote, self.sent, message.len() + TAG);
        let start = datagram.len();
        datagram.resize(start + message.len() + TAG, 0);
        self.transport.write_message(self.sent, message, &mut datagram[start..])?;
        self.sent += 1;
        Ok(datagram)
    }

    pub(super) fn open(&mut self, number: u64, sealed: &[u8]) -> Result<Vec<u8>, Closed> {
        if !self.received.is_new(number) {
            return Err(Closed::Replay);
        }
        let mut message = vec![0; sealed.len()];
        let opened = self.transport.read_message(number, sealed, &mut message);
        message.truncate(opened.map_err(|_| Closed::Forged)?);
        // Only what was opened moves the window.
        if self.received.note(number) { Ok(message) } else { Err(Closed::Replay) }
    }
}

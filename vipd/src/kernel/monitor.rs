//! The kernel's notifications of links and addresses, and dumps of both.

use super::KernelError;
use super::table::Table;
use futures_util::stream::{Stream, TryStreamExt};
use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;
use netlink_sys::{AsyncSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{Handle, MulticastGroup};
use std::pin::pin;
use tokio::task::AbortHandle;
use tracing::warn;

/// Bytes of receive buffer: some ten thousand notifications.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Notifications taken in one go, so that a flood of them cannot keep plans waiting.
const BATCH: usize = 512;

type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// The connection to the kernel that listens.
pub(super) struct Monitor {
    messages: Box<dyn Stream<Item = Message> + Send + Sync + Unpin>,
    handle: Handle,
    task: AbortHandle,
}

/// What came in.
pub(super) enum Batch {
    /// Notifications, in order.
    Messages(Vec<Notice>),
    /// Then the kernel dropped some: only a dump helps.
    Overrun(Vec<Notice>),
    /// The connection broke.
    Closed,
}

/// A notification, and the netlink port of who caused it, where the kernel says so.
pub(super) type Notice = (RouteNetlinkMessage, u32);

impl Monitor {
    /// Opens the connection; it listens from now on.
    pub(super) fn open() -> Result<Self, KernelError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (mut connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(KernelError::Open)?;
        let socket = connection.socket_mut().socket_mut();
        if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            // Without CAP_NET_ADMIN: as much as the system allows.
            setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|e| KernelError::Open(e.into()))?;
        }
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self { messages: Box::new(messages), handle, task })
    }

    /// Reads all links and addresses.
    pub(super) fn dump(&self) -> impl Future<Output = Result<Table, KernelError>> + Send + use<> {
        let handle = self.handle.clone();
        async move {
            let mut table = Table::default();
            let mut links = pin!(handle.link().get().execute());
            while let Some(link) = links.try_next().await.map_err(KernelError::Dump)? {
                table.take(&RouteNetlinkMessage::NewLink(link));
            }
            let mut addresses = pin!(handle.address().get().execute());
            while let Some(address) = addresses.try_next().await.map_err(KernelError::Dump)? {
                table.take(&RouteNetlinkMessage::NewAddress(address));
            }
            Ok(table)
        }
    }

    /// Whether an interface is up as far as people are concerned; so is one of which nothing is known.
    pub(super) async fn is_up(&self, interface: u32) -> bool {
        let mut links = pin!(self.handle.link().get().match_index(interface).execute());
        let link = links.try_next().await;
        link.ok().flatten().is_none_or(|link| link.header.flags.contains(LinkFlags::Up))
    }

    /// Throws away the notifications that are there; whether there were some.
    pub(super) fn discard(&mut self) -> bool {
        let mut some = false;
        while let Some(Some(_)) = self.messages.next().now_or_never() {
            some = true;
        }
        some
    }

    /// Waits for notifications, and takes all that are there. Dropping the
    /// future loses none.
    pub(super) async fn next(&mut self) -> Batch {
        let mut next = self.messages.next().await;
        let mut notices = Vec::new();
        loop {
            let Some((message, _)) = next else { return Batch::Closed };
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => notices.push((inner, message.header.port_number)),
                NetlinkPayload::Overrun(_) => {
                    warn!("the kernel dropped notifications; reading everything anew");
                    return Batch::Overrun(notices);
                }
                // Foreign, open-ended: answers to nobody's question.
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) | NetlinkPayload::Noop | _ => {}
            }
            if notices.len() >= BATCH {
                return Batch::Messages(notices);
            }
            next = match self.messages.next().now_or_never() {
                Some(next) => next,
                None => return Batch::Messages(notices),
            };
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};
use tower_connection::{ConnectionHandle, Notice};

/// Extracts the [`Notice`] that the server ends, for what would go on for ever.
///
/// It is that of the request's connection, given by whoever ends the server (`tower-drain`). Where nobody does, or
/// where requests have no handle, it is never given.
///
/// # Examples
///
/// A WebSocket that says goodbye:
///
/// ```
/// use axum::{
///     Router,
///     extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
///     response::Response,
///     routing::any,
/// };
/// use tower_connection_axum::{Notice, Noticed};
///
/// async fn chat(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
///     upgrade.on_upgrade(|socket| talk(socket, notice))
/// }
///
/// async fn talk(mut socket: WebSocket, notice: Notice) {
///     loop {
///         tokio::select! {
///             Some(Ok(_message)) = socket.recv() => { /* .. */ }
///             _deadline = notice.given() => {
///                 let away = CloseFrame { code: close_code::AWAY, reason: "restarting".into() };
///                 let _ = socket.send(Message::Close(Some(away))).await;
///                 return;
///             }
///             else => return,
///         }
///     }
/// }
///
/// let app: Router = Router::new().route("/chat", any(chat));
/// ```
#[derive(Clone, Debug)]
pub struct Noticed(pub Notice);

impl<S: Sync> FromRequestParts<S> for Noticed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let handle = parts.extensions.get::<ConnectionHandle>();
        let notice = handle.map_or_else(Notice::never, ConnectionHandle::notice);
        Ok(Self(notice))
    }
}

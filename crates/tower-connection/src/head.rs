use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

/// The head of a request, for settings that depend on it.
///
/// ```
/// # use tower_connection::Head;
/// fn is_upload(head: &Head<'_>) -> bool {
///     head.method == http::Method::PUT && head.headers.contains_key("content-length")
/// }
/// # let upload = http::Request::put("/").header("content-length", "7").body(());
/// # assert!(is_upload(&Head::of(&upload?)));
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub struct Head<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub version: Version,
    pub headers: &'a HeaderMap,
    /// What layers further out have found out: the [`ConnectionHandle`](crate::ConnectionHandle), a user.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    /// The head of `request`.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

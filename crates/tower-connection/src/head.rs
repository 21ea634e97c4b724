use http::{HeaderMap, Method, Request, Uri, Version};

/// The head of a request, for settings that depend on it.
///
/// ```
/// # use tower_connection::Head;
/// fn is_grpc(head: &Head<'_>) -> bool {
///     let content_type = head.headers.get("content-type");
///     content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
/// }
/// # let call = http::Request::post("/").header("content-type", "application/grpc").body(());
/// # assert!(is_grpc(&Head::of(&call?)));
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
}

impl<'a> Head<'a> {
    /// The head of `request`.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        }
    }
}

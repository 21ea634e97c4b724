//! A certificate made at start, and the protocols that each stack speaks.

use std::{error::Error, sync::Arc};

use rustls::{ServerConfig, pki_types::PrivateKeyDer};

use crate::flags::Stack;

pub(crate) fn config(stack: Stack) -> Result<Arc<ServerConfig>, Box<dyn Error + Send + Sync>> {
    let own = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)?;
    let protocols: &[&[u8]] = match stack {
        Stack::HyperHttp1 => &[b"http/1.1"],
        Stack::HyperHttp2 => &[b"h2"],
        Stack::Axum | Stack::HyperAuto | Stack::Tonic => &[b"h2", b"http/1.1"],
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

//! Whom the server answers: those who sign with its one key, and everybody if it is told so.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Key {
    async fn get_secret_key(&self, id: &str) -> S3Result<SecretKey> {
        if id == self.id { Ok(self.secret.clone()) } else { Err(s3_error!(InvalidAccessKeyId)) }
    }
}

pub(crate) struct Access {
    /// Whether a request without a signature is answered.
    pub(crate) anonymous: bool,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if self.anonymous || context.credentials().is_some() {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Access Denied"))
    }
}

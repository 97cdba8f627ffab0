//! What is there, for those who ask beside S3: how a measurement sees that an upload is complete
//! without being a client of the lake itself.

use std::collections::BTreeMap;

use super::Backend;

impl Backend {
    /// Keys that begin with *prefix*, and the sizes of their current objects in bytes; nothing of a
    /// bucket that is not there.
    pub(crate) fn sizes(&self, bucket: &str, prefix: &str) -> BTreeMap<String, u64> {
        let store = self.store();
        let Some(bucket) = store.buckets.get(bucket) else { return BTreeMap::new() };
        let keys = bucket.entries.range(prefix.to_owned()..);
        keys.take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, _)| Some((key.clone(), bucket.current(key)?.content.len())))
            .collect()
    }
}

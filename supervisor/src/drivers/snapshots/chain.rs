//! Chain ids: the names of stacks of layers, computed as the OCI image spec says.

use crate::drivers::content::Digest;

/// Chain ids of a stack, lowest layer first: the first is its diff id, each next one the digest of
/// the one below and its own diff id with a space between.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::chain_ids;
    use crate::drivers::content::Digest;

    #[test]
    fn as_the_image_spec_computes_them() {
        let diff_ids = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let chain = chain_ids(&diff_ids);
        assert_eq!(chain[0], diff_ids[0]);
        // printf 'sha256:ca97… sha256:3e23…' | sha256sum, and so on.
        assert_eq!(
            chain[1].to_string(),
            "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676"
        );
        assert_eq!(
            chain[2].to_string(),
            "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106"
        );
        assert!(chain_ids(&[]).is_empty());
    }
}

//! The header with which servers sign requests, in the forms that ruma's strict parser refuses.
//!
//! Spec: server-server API, "Request Authentication": "for compatibility with older servers", colons are allowed in values
//! that are not in quotation marks, though HTTP wants such values quoted.

use http::{HeaderMap, HeaderValue, header};

/// Puts the values of an `X-Matrix` header into quotation marks, those that are not.
pub(super) fn quote(headers: &mut HeaderMap) {
    let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return };
    let Some((scheme, parameters)) = given.split_once(' ') else { return };
    // With no backslash and no comma in quotation marks, every comma separates.
    if !scheme.eq_ignore_ascii_case("X-Matrix") || parameters.contains('\\') {
        return;
    }
    let quoted = parameters.split(',').map(|parameter| match parameter.trim().split_once('=') {
        Some((name, value)) if !value.starts_with('"') => format!("{}=\"{value}\"", name.trim_end()),
        _ => parameter.trim().to_owned(),
    });
    let quoted = quoted.collect::<Vec<_>>().join(",");
    if let Ok(value) = HeaderValue::try_from(format!("X-Matrix {quoted}")) {
        headers.insert(header::AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(given: &str) -> String {
        let mut headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(given).unwrap())]);
        quote(&mut headers);
        headers[header::AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn values_are_quoted_and_nothing_else_is_touched() {
        let wanted = "X-Matrix origin=\"a:1\",key=\"ed25519:k\",sig=\"a+/=\"";
        assert_eq!(quoted("X-Matrix origin=a:1,key=ed25519:k,sig=a+/="), wanted);
        assert_eq!(quoted("x-matrix  origin=\"a:1\", key=ed25519:k , sig=\"a+/=\""), wanted);
        assert_eq!(quoted(wanted), wanted);
        assert_eq!(quoted("Bearer a=b,c"), "Bearer a=b,c");
        assert_eq!(quoted("X-Matrix"), "X-Matrix");
    }
}

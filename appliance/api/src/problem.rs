//! How the server says no: RFC 9457, `application/problem+json`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Whose fault a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The request's: another request is needed.
    Client,
    /// The appliance's: the request was right.
    Appliance,
    /// The guest's.
    Guest,
}

/// One field that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FieldError {
    /// Where: a JSON pointer into the body (RFC 6901), or the name of a header field.
    pub pointer: String,
    /// What was found and what was expected.
    pub detail: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// Path of the page that explains it, `/errors/…`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// What it is, the same words every time.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what was expected.
    pub detail: String,
    /// Stable name, for programs.
    pub code: String,
    /// Whose fault it is.
    pub blame: Blame,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $blame:ident $retry:literal $title:literal;)*) => {
        /// Every problem there is. The names are a promise to programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the code's stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// Returns the HTTP status it goes with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
            /// Returns whose fault it is.
            pub const fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)* }
            }
            /// Returns whether the same request may succeed later.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }
            /// Returns the title.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" 400 Client false "The request is not well-formed HTTP/1.1.";
    BadJson "bad_json" 400 Client false "The body is not well-formed JSON.";
    BadQuery "bad_query" 400 Client false "A query parameter is not understood.";
    Unauthorized "unauthorized" 401 Client false "A valid bearer token is required.";
    NotFound "not_found" 404 Client false "There is nothing at this path.";
    VmNotFound "vm_not_found" 404 Client false "There is no such VM.";
    ImageNotFound "image_not_found" 404 Client false "There is no such image.";
    DeviceNotFound "device_not_found" 404 Client false "There is no such device.";
    OperationNotFound "operation_not_found" 404 Client false "There is no such operation.";
    MethodNotAllowed "method_not_allowed" 405 Client false "The method does not apply here.";
    RequestTimeout "request_timeout" 408 Client true "The request took too long to arrive.";
    NameTaken "name_taken" 409 Client false "The name is taken by something else.";
    DeviceOff "device_off" 409 Guest true "The device, or its memory, is off.";
    DeviceBusy "device_busy" 409 Appliance true "The device is being reset, or becoming ready.";
    DeviceNotReady "device_not_ready" 503 Appliance true "The device did not become ready in time.";
    VmRunning "vm_running" 409 Client false "The VM is running.";
    VmNotRunning "vm_not_running" 409 Client false "The VM is not running.";
    MemoryFacilityOff "memory_facility_off" 409 Guest true "The VM does not use that facility of its memory.";
    VmBusy "vm_busy" 409 Client true "The VM is between two states.";
    ImageInUse "image_in_use" 409 Client false "The image is in use.";
    ImageComplete "image_complete" 409 Client false "The image is complete and never changes.";
    ImageIncomplete "image_incomplete" 409 Client false "The image is not complete.";
    UploadOffset "upload_offset" 409 Client false "The upload does not continue where the last one ended.";
    UploadSuperseded "upload_superseded" 409 Client false "Another upload of this image took over.";
    LengthRequired "length_required" 411 Client false "Content-Length is required.";
    PreconditionFailed "precondition_failed" 412 Client false "The resource has changed.";
    BodyTooLarge "body_too_large" 413 Client false "The body is too large.";
    UriTooLong "uri_too_long" 414 Client false "The request line is too long.";
    UnsupportedMediaType "unsupported_media_type" 415 Client false "The body's media type is not understood.";
    ExpectationFailed "expectation_failed" 417 Client false "The expectation cannot be met.";
    Invalid "invalid" 422 Client false "A field of the body is wrong.";
    WrongDigest "wrong_digest" 422 Client true "What arrived is not what was sent.";
    NotAnImage "not_an_image" 422 Client false "The image is not what its kind says.";
    KeyReused "key_reused" 422 Client false "The Idempotency-Key was used for another request.";
    UpgradeRequired "upgrade_required" 426 Client false "This path needs a protocol upgrade.";
    TooManyStreams "too_many_streams" 503 Appliance true "Every stream the appliance serves at a time is in use.";
    HeadersTooLarge "headers_too_large" 431 Client false "The header section is too large.";
    Internal "internal" 500 Appliance false "The appliance failed.";
    NotImplemented "not_implemented" 501 Client false "The appliance does not implement this.";
    TooManyConnections "too_many_connections" 503 Appliance true "Every connection the appliance serves at a time is in use.";
    Busy "busy" 503 Appliance true "The appliance is busy.";
    ShuttingDown "shutting_down" 503 Appliance false "The appliance is shutting down.";
    VersionNotSupported "version_not_supported" 505 Client false "Only HTTP/1.0 and HTTP/1.1 are spoken.";
    NoMemory "no_memory" 507 Appliance true "There is not enough memory.";
    TableFull "table_full" 507 Appliance false "No more of these can be defined.";
    GuestCrashed "guest_crashed" 500 Guest false "The guest did what cannot be continued.";
    Cancelled "cancelled" 409 Client true "A later request overtook this one.";
}

impl Problem {
    /// Creates the problem `code`, saying in `detail` what happened this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            problem_type: format!("/errors/{}", code.name().replace('_', "-")),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            code: code.name().into(),
            blame: code.blame(),
            retryable: code.retryable(),
            hint: String::new(),
            errors: Vec::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds a field that is wrong.
    #[must_use]
    pub fn field(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_distinct_names_and_error_statuses() {
        for (n, code) in Code::ALL.iter().enumerate() {
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(code.title().ends_with('.'), "{code:?}");
            assert!(
                Code::ALL
                    .iter()
                    .skip(n + 1)
                    .all(|other| other.name() != code.name())
            );
        }
    }

    #[test]
    fn a_problem_reads_as_rfc_9457_says() {
        let problem = Problem::new(Code::VmNotFound, "no VM is named 'web'").hint("list them");
        assert_eq!(
            serde_json::to_string(&problem).expect("a problem is JSON"),
            concat!(
                r#"{"type":"/errors/vm-not-found","title":"There is no such VM.","status":404,"#,
                r#""detail":"no VM is named 'web'","code":"vm_not_found","blame":"client","#,
                r#""retryable":false,"hint":"list them"}"#
            )
        );
    }
}

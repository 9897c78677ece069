"""The errors of each kind of route.

They are those of reading one image, of reading many, of feedback, and of the HTTP server itself. An
error of the tree that is not here belongs to no route.
"""

from __future__ import annotations

from collections.abc import Mapping

from qwen_captcha.api.openapi.operation import Errors
from qwen_captcha.errors import (
    BadRequest,
    BodyTooLarge,
    CaptchaServiceError,
    ClientDisconnected,
    DeadlineExceeded,
    Draining,
    EmptyImage,
    EngineBusy,
    EngineFailed,
    EngineRejected,
    EngineUnreachable,
    ImageTooLarge,
    InternalError,
    InvalidBase64,
    InvalidOption,
    MissingImage,
    ModelFailed,
    ModelLoading,
    OutOfMemory,
    QueueFull,
    RateLimited,
    ServiceUnavailable,
    TooLarge,
    TooManyFrames,
    TooManyImages,
    TooManyPixels,
    Unauthorized,
    UndecodableImage,
    UnknownRequest,
    UnreadableShape,
    UnsupportedImageType,
)

# Errors of the HTTP server itself, on every route, by status.
SERVER_ERRORS: Mapping[int, type[CaptchaServiceError]] = {
    400: BadRequest,
    408: BadRequest,
    414: TooLarge,
    417: BadRequest,
    431: TooLarge,
    500: InternalError,
    501: BadRequest,
}
# Errors of access control, on every route except probes and pages, by status.
SECURITY_ERRORS: Mapping[int, type[CaptchaServiceError]] = {401: Unauthorized, 429: RateLimited}
UNAVAILABLE: Errors = (QueueFull, ModelLoading, ModelFailed, Draining)
SINGLE_ERRORS: Errors = (
    BadRequest,
    MissingImage,
    EmptyImage,
    InvalidBase64,
    InvalidOption,
    BodyTooLarge,
    ImageTooLarge,
    TooManyPixels,
    TooManyFrames,
    UnsupportedImageType,
    UndecodableImage,
    UnreadableShape,
    ClientDisconnected,
    *UNAVAILABLE,
    OutOfMemory,
    EngineFailed,
    EngineUnreachable,
    EngineBusy,
    EngineRejected,
    DeadlineExceeded,
    InternalError,
)
BATCH_ERRORS: Errors = (
    BadRequest,
    MissingImage,
    InvalidOption,
    BodyTooLarge,
    TooManyImages,
    ClientDisconnected,
    *UNAVAILABLE,
    InternalError,
)
FEEDBACK_ERRORS: Errors = (
    BadRequest,
    UnknownRequest,
    BodyTooLarge,
    ServiceUnavailable,
    InternalError,
)

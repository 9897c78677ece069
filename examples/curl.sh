#!/bin/sh
# Every way to ask the service with curl: [FEEDBACK=1] curl.sh IMAGE [URL]
set -eu
image=$1
url=${2:-http://127.0.0.1:5000}

ask() { curl --silent --show-error --fail-with-body --max-time 70 "$@"; }

# Is it up, and does the model answer?
ask "$url/health"

# One image: as the body, as a form, as base64 in JSON.
ask --header 'Content-Type: image/png' --data-binary "@$image" "$url/ocr"
ask --form "image=@$image" "$url/ocr"
base64 < "$image" | tr -d '\n' | sed 's/.*/{"image_base64":"&"}/' |
    ask --header 'Content-Type: application/json' --data-binary @- "$url/ocr"

# With options, which have the same names everywhere.
ask --data-binary "@$image" "$url/ocr?kind=text&case=upper"
ask --form "image=@$image" --form case=upper "$url/ocr"

# Many images at once.
ask --form "images=@$image" --form "images=@$image" "$url/batch-ocr"

# Whether the site took an answer, for a service with COLLECT_DIR.
if [ "${FEEDBACK:-}" ]; then
    id=$(ask --output /dev/null --write-out '%header{x-request-id}' --data-binary "@$image" "$url/ocr")
    ask --data-binary "{\"request_id\":\"$id\",\"correct\":true}" "$url/feedback"
fi

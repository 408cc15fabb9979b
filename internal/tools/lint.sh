#!/usr/bin/env bash
# Formatting, vet, the rules of proto/, and that generated code is current.
set -euo pipefail
cd "$(dirname "$0")/../.."
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { printf 'lint: gofmt would change:\n%s\n' "$unformatted" >&2; exit 1; }
go vet ./...
go vet -tags integration,e2e,bench ./...
go -C deploy/local vet ./...

buf() { go tool -modfile=../internal/tools/buf/go.mod buf "$@"; }
cd proto
buf lint
generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
buf generate --output "$generated"
for file in $(git ls-files '*.pb.go'); do
  cmp -s "$file" "$generated/$file" || { echo "lint: proto/$file is not what its source generates; run make generate" >&2; exit 1; }
done
echo "lint: clean"

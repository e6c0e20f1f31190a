#!/bin/sh
# web, scheduler, or any command of manage.py. A file /run/secrets/EXPORTER_… is the value of that variable.
set -eu

for file in "${SECRETS_DIRECTORY:-/run/secrets}"/EXPORTER_*; do
  [ -f "$file" ] || continue
  value=$(cat "$file")
  export "${file##*/}=$value"
done

case "${1:-web}" in
  web)
    python manage.py migrate --noinput --verbosity 0
    exec python -m gunicorn -c deploy/gunicorn.conf.py exporter_site.wsgi
    ;;
  scheduler) exec python manage.py runscheduler ;;
  *) exec python manage.py "$@" ;;
esac

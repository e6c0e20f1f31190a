"""AnalyticDB for MySQL: MySQL's protocol, with fewer session settings.

Not tried against a real AnalyticDB; the differences are from its documentation (no START TRANSACTION READ ONLY, a
KILL of its own id from SHOW PROCESSLIST).
"""

from datasources.connectors.mysql import MySQL


class AnalyticDB(MySQL):
    strict_session = False

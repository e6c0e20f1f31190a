/* C: the client library's unbuffered result, and libxlsxwriter in constant_memory mode.
 *
 * with_libxlsxwriter HOST PORT USER PASSWORD DATABASE OUTPUT [--rows N]
 */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xlsxwriter.h>

enum kind { TEXT, NUMBER, DATE, TIME };

#define MAX_COLUMNS 1024

static int fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

static enum kind kind_of(const MYSQL_FIELD *field) {
    switch (field->type) {
    case MYSQL_TYPE_TINY:
    case MYSQL_TYPE_SHORT:
    case MYSQL_TYPE_INT24:
    case MYSQL_TYPE_LONG:
    case MYSQL_TYPE_FLOAT:
    case MYSQL_TYPE_DOUBLE:
    case MYSQL_TYPE_NEWDECIMAL:
        return NUMBER;
    case MYSQL_TYPE_DATE:
        return DATE;
    case MYSQL_TYPE_DATETIME:
        return TIME;
    default: /* BIGINT, too: a number of Excel keeps 15 digits. */
        return TEXT;
    }
}

/* libxlsxwriter escapes control characters, but lets U+FFFE and U+FFFF into the file, which XML does not allow. */
static void remove_noncharacters(char *text) {
    char *from = text, *to = text;
    if (!strstr(text, "\xEF\xBF\xBE") && !strstr(text, "\xEF\xBF\xBF"))
        return;
    while (*from)
        if (!strncmp(from, "\xEF\xBF\xBE", 3) || !strncmp(from, "\xEF\xBF\xBF", 3))
            from += 3;
        else
            *to++ = *from++;
    *to = 0;
}

int main(int argc, char **argv) {
    char sql[64] = "SELECT * FROM orders";
    enum kind kinds[MAX_COLUMNS];

    if (argc != 7 && argc != 9)
        return fail(argv[0], "HOST PORT USER PASSWORD DATABASE OUTPUT [--rows N]");
    if (argc == 9)
        snprintf(sql, sizeof sql, "SELECT * FROM orders LIMIT %ld", atol(argv[8]));

    MYSQL *connection = mysql_init(NULL);
    mysql_options(connection, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    if (!mysql_real_connect(connection, argv[1], argv[3], argv[4], argv[5], atoi(argv[2]), NULL, 0))
        return fail("connect", mysql_error(connection));
    if (mysql_query(connection, sql))
        return fail("query", mysql_error(connection));
    MYSQL_RES *result = mysql_use_result(connection);
    unsigned columns = mysql_num_fields(result);
    MYSQL_FIELD *fields = mysql_fetch_fields(result);
    if (columns > MAX_COLUMNS)
        return fail("query", "too many columns");

    lxw_workbook_options options = {.constant_memory = LXW_TRUE, .tmpdir = NULL, .use_zip64 = LXW_TRUE};
    lxw_workbook *workbook = workbook_new_opt(argv[6], &options);
    lxw_worksheet *sheet = workbook_add_worksheet(workbook, "orders");
    lxw_format *dates = workbook_add_format(workbook);
    lxw_format *times = workbook_add_format(workbook);
    format_set_num_format(dates, "yyyy-mm-dd");
    format_set_num_format(times, "yyyy-mm-dd hh:mm:ss");

    for (unsigned i = 0; i < columns; i++) {
        kinds[i] = kind_of(&fields[i]);
        worksheet_write_string(sheet, 0, i, fields[i].name, NULL);
    }
    MYSQL_ROW row;
    for (lxw_row_t number = 1; (row = mysql_fetch_row(result)); number++)
        for (unsigned i = 0; i < columns; i++) {
            lxw_datetime moment = {0};
            if (!row[i])
                continue;
            switch (kinds[i]) {
            case NUMBER:
                worksheet_write_number(sheet, number, i, strtod(row[i], NULL), NULL);
                break;
            case DATE:
            case TIME:
                sscanf(row[i], "%d-%d-%d %d:%d:%lf", &moment.year, &moment.month, &moment.day, &moment.hour,
                       &moment.min, &moment.sec);
                worksheet_write_datetime(sheet, number, i, &moment, kinds[i] == DATE ? dates : times);
                break;
            case TEXT:
                remove_noncharacters(row[i]);
                worksheet_write_string(sheet, number, i, row[i], NULL);
            }
        }
    if (mysql_errno(connection))
        return fail("fetch", mysql_error(connection));
    mysql_free_result(result);
    mysql_close(connection);
    lxw_error error = workbook_close(workbook);
    return error ? fail("write", lxw_strerror(error)) : 0;
}

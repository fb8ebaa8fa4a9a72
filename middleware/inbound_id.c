#include "inbound_id.h"

static bool
is_id_char(char byte)
{
    return sc_is_lower(byte) || sc_is_upper(byte) || sc_is_digit(byte) ||
           byte == '.' || byte == '_' || byte == '-';
}

bool
sc_inbound_id_parse(const ScText *lines, size_t count, ScText *id)
{
    if (count != 1) {
        return false;
    }
    ScText value = sc_text_trim(lines[0]);
    if (value.length == 0 || value.length > SC_INBOUND_ID_LIMIT) {
        return false;
    }
    for (size_t i = 0; i < value.length; i++) {
        if (!is_id_char(value.at[i])) {
            return false;
        }
    }
    *id = value;
    return true;
}

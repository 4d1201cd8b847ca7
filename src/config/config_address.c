/* Listening addresses as the operator writes them, in the file and on the command line: only their
 * form is checked here, the resolver is asked by who listens. */
#include "config/config.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "config/config_internal.h"

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
parse_port(const char *text, uint16_t *port)
{
    unsigned value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (!is_digit(*text))
            return false;
        value = value * 10 + (unsigned)(*text - '0');
        if (value > UINT16_MAX)
            return false;
    }
    *port = (uint16_t)value;
    return true;
}

/* An IPv6 address, with or without "%zone": the name or the number of an interface. */
static bool
is_ip6(const char *host)
{
    const char *percent = strchr(host, '%');
    size_t size = percent != NULL ? (size_t)(percent - host) : strlen(host);
    char address[INET6_ADDRSTRLEN];
    struct in6_addr ignored;

    if (size >= sizeof(address))
        return false;
    memcpy(address, host, size);
    address[size] = '\0';
    if (inet_pton(AF_INET6, address, &ignored) != 1)
        return false;
    if (percent == NULL)
        return true;
    if (percent[1] == '\0' || strlen(percent + 1) >= IF_NAMESIZE)
        return false;
    for (const char *c = percent + 1; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~' || *c == '/' || *c == '%')
            return false;
    }
    return true;
}

/* Nothing but digits and dots is an IPv4 address or a mistake, never a name: no top-level domain is
 * a number (RFC 3696, 2). */
static bool
looks_like_ip4(const char *host)
{
    return strspn(host, "0123456789.") == strlen(host);
}

/* Labels of letters, digits, '-' and (as in the names of many containers) '_', 1 to 63 long; a dot
 * may end the whole. */
static bool
is_name(const char *host)
{
    size_t label = 0;

    for (const char *c = host; *c != '\0'; c++) {
        if (*c == '.' && label > 0 && c[-1] != '-')
            label = 0;
        else if (!is_digit(*c) && !is_letter(*c) && *c != '_' && (*c != '-' || label == 0))
            return false;
        else if (++label > 63)
            return false;
    }
    return host[0] != '\0' && host[strlen(host) - 1] != '-';
}

/* What is before the port, without brackets. */
MUST_CHECK static int
check_host(const char *host, bool is_bracketed)
{
    struct in_addr ignored;

    if (host[0] == '\0')
        return CONFIG_ADDRESS_NO_HOST;
    if (is_bracketed)
        return is_ip6(host) ? 0 : CONFIG_ADDRESS_BAD_IP6;
    if (strcmp(host, "*") == 0)
        return 0;
    if (strchr(host, ':') != NULL)
        return CONFIG_ADDRESS_NO_BRACKETS;
    if (looks_like_ip4(host))
        return inet_pton(AF_INET, host, &ignored) == 1 ? 0 : CONFIG_ADDRESS_BAD_IP4;
    return is_name(host) ? 0 : CONFIG_ADDRESS_BAD_NAME;
}

int
config_parse_address(const char *text, struct config_address *out)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text, *end = colon;
    const char *bracket = strrchr(text, ']');
    struct config_address parsed = {.port = 0};
    int result;

    if (colon == NULL || (bracket != NULL && bracket > colon))
        return CONFIG_ADDRESS_NO_PORT;
    if (*text == '[') {
        begin = text + 1;
        end = colon - 1;
        if (end < begin || *end != ']')
            return CONFIG_ADDRESS_BAD_IP6;
    }
    if ((size_t)(end - begin) >= sizeof(parsed.host))
        return CONFIG_ADDRESS_TOO_LONG;
    memcpy(parsed.host, begin, (size_t)(end - begin));
    result = check_host(parsed.host, begin != text);
    if (result != 0)
        return result;
    if (!parse_port(colon + 1, &parsed.port))
        return colon[1] == '\0' ? CONFIG_ADDRESS_NO_PORT : CONFIG_ADDRESS_BAD_PORT;
    *out = parsed;
    return 0;
}

const char *
config_address_error_text(int error)
{
    switch (error) {
    case CONFIG_ADDRESS_NO_PORT:
        return "there is no port (the form is ADDRESS:PORT)";
    case CONFIG_ADDRESS_BAD_PORT:
        return "the port is not a number from 0 to 65535";
    case CONFIG_ADDRESS_NO_HOST:
        return "there is no address before the port (all addresses are \"*\")";
    case CONFIG_ADDRESS_BAD_IP4:
        return "this is not an IPv4 address";
    case CONFIG_ADDRESS_BAD_IP6:
        return "this is not an IPv6 address in brackets (as \"[::1]:5672\")";
    case CONFIG_ADDRESS_NO_BRACKETS:
        return "an IPv6 address is written in brackets (as \"[::1]:5672\")";
    case CONFIG_ADDRESS_BAD_NAME:
        return "this is neither an IP address nor a host name";
    case CONFIG_ADDRESS_TOO_LONG:
        return "it is too long for an address";
    default:
        return "it is not an address";
    }
}

const char *
config_address_text(const struct config_address *address, char out[CONFIG_ADDRESS_TEXT_MAX])
{
    bool has_brackets = strchr(address->host, ':') != NULL;

    snprintf(out, CONFIG_ADDRESS_TEXT_MAX, "%s%.*s%s:%u", has_brackets ? "[" : "",
             CONFIG_HOST_MAX - 1, address->host, has_brackets ? "]" : "", (unsigned)address->port);
    return out;
}

const char *
setting_store_address(struct slice text, struct config_addresses *list)
{
    char copy[CONFIG_ADDRESS_TEXT_MAX];
    struct config_address address;
    int error;

    if (text.size >= sizeof(copy))
        return config_address_error_text(CONFIG_ADDRESS_TOO_LONG);
    if (memchr(text.data, '\0', text.size) != NULL)
        return config_address_error_text(CONFIG_ADDRESS_BAD_NAME);
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    error = config_parse_address(copy, &address);
    if (error != 0)
        return config_address_error_text(error);
    if (list->count == CONFIG_LISTEN_MAX)
        return "the list is full";
    /* Each listener on port 0 gets a port of its own. */
    for (size_t i = 0; address.port != 0 && i < list->count; i++) {
        if (list->items[i].port == address.port && strcmp(list->items[i].host, address.host) == 0)
            return "it is in the list already";
    }
    list->items[list->count++] = address;
    return NULL;
}

const char *
setting_store_network(struct slice text, struct networks *list)
{
    char copy[NETWORK_TEXT_MAX];
    struct network network;

    if (text.size >= sizeof(copy) || memchr(text.data, '\0', text.size) != NULL)
        return "this is no network";
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    if (!network_parse(copy, &network))
        return "this is no address, or has bits after the prefix";
    if (list->count == NETWORKS_MAX)
        return "the list is full";
    for (size_t i = 0; i < list->count; i++)
        if (memcmp(&list->items[i], &network, sizeof(network)) == 0)
            return "it is in the list already";
    list->items[list->count++] = network;
    return NULL;
}

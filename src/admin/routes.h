/* The routes: what can be asked and changed, one table, and who does it. */
#ifndef ADMIN_ROUTES_H
#define ADMIN_ROUTES_H

#include "admin/request.h"

/* Answers a request of this method for this path. What it answers with, if that is done (2xx) and
 * the method changes something, is not yet on disk. */
void routes_handle(const char *method, const struct admin_path *path, struct admin_request *request,
                   struct admin_reply *reply);

/* The handlers. */
typedef void admin_handler(const struct admin_request *request, struct admin_reply *reply);

admin_handler whoami, users_list, user_show, user_put, user_patch, user_delete, user_authenticate,
    vhosts_list, vhost_show, vhost_put, vhost_delete, permissions_list, permissions_of_user,
    permissions_of_vhost, permission_show, permission_put, permission_delete, topics_list,
    topics_of_user, topics_of_vhost, topic_show, topic_put, topics_delete, topic_delete,
    policies_list, policies_of_vhost, policy_show, policy_put, policy_delete,
    operator_policies_list, operator_policies_of_vhost, operator_policy_show, operator_policy_put,
    operator_policy_delete, queues_list, queues_of_vhost, queue_show, exchanges_list,
    exchanges_of_vhost, exchange_show;

#endif

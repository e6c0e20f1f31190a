"""The tables of tests/access/test_permission_matrix.py."""

# routes | verbs (GET: also HEAD unless a line before says it; *: all others) | answers to nobody viewer operator editor admin | to who lacks the grant
#
# The last answer is for those of the three in the middle who lack the grant and would not get 403 with it; with `all:`
# also for who would. Where it is missing, the grant changes nothing. Verbs that are not named are answered with 405.
# `login`, `index` (the admin's “there is no such thing”) and `away` are redirects. {a,b} stands for two routes.
TABLE = """
/                                                        | *         | index index index index index
healthz healthz-web                                      | GET       | 200 200 200 200 200
metrics                                                  | GET       | 401 403 403 403 200
set_language                                             | *         | away away away away away
tasks:download tasks:link tasks:link-file                | GET       | login 200 200 200 200      | 404

dashboard-live                                           | GET       | login 200 200 200 200
dashboard-live                                           | POST      | login 405 405 405 405
dashboard-cancel                                         | GET       | login 405 405 405 405
dashboard-cancel                                         | POST      | login 403 index index index | 404
admin:{index,search,app_list,password_change}            | GET POST  | login 200 200 200 200
admin:jsi18n                                             | GET       | login 200 200 200 200
admin:password_change_done                               | GET POST  | login index index index index
admin:{jsi18n,autocomplete}                              | POST      | login 405 405 405 405
admin:autocomplete                                       | GET       | login 403 403 403 403  # which field is not said
admin:login                                              | HEAD      | 200 200 200 200 200
admin:login                                              | GET       | 200 index index index index
admin:login                                              | POST      | index index index index index
admin:login                                              | OPTIONS PUT | 200 200 200 200 200  # shows the form
admin:logout                                             | GET       | index 405 405 405 405
admin:logout                                             | POST      | index 200 200 200 200
admin:view_on_site admin/(?P<url>.*)$                    | GET POST  | login 404 404 404 404
admin/auth/{user,group}/<path:object_id>/ admin/access/{apikey,auditevent}/<path:object_id>/ \
admin/datasources/datasource/<path:object_id>/ admin/notifications/{channel,notificationrule,delivery}/<path:object_id>/ \
admin/tasks/{download,execution,exporttask,schedulerprocess,pause}/<path:object_id>/ \
                                                         | GET POST  | login away away away away

admin:auth_{user,group}_{add,change,delete} admin:auth_user_password_change admin:access_apikey_add \
admin:datasources_datasource_add admin:notifications_channel_{add,delete} \
                                                         | GET       | login 403 403 403 200
admin:auth_{user,group}_{add,change,delete} admin:auth_user_password_change admin:access_apikey_add \
admin:datasources_datasource_add admin:notifications_channel_{add,delete} \
                                                         | POST      | login 403 403 403 away
admin:{auth_user,auth_group,access_apikey,access_auditevent}_{changelist,history} \
                                                         | GET POST  | login 403 403 403 200
admin:access_{apikey,auditevent}_change                  | GET       | login 403 403 403 200
admin:access_{apikey,auditevent}_change                  | POST      | login 403 403 403 403  # never changed
admin:access_{apikey,auditevent}_delete admin:access_auditevent_add \
admin:notifications_delivery_{add,delete} admin:tasks_{download,execution,schedulerprocess}_{add,delete} \
admin:tasks_pause_{add,delete}                           | GET POST  | login 403 403 403 403
admin:datasources_datasource_delete                      | GET POST  | login 403 403 403 200  # in use: the page says so
admin:{datasources_datasource,notifications_channel}_try{,_new} \
                                                         | GET       | login 405 405 405 405
admin:{datasources_datasource,notifications_channel}_try_new admin:notifications_channel_try \
                                                         | POST      | login 403 403 403 200
admin:datasources_datasource_try                         | POST      | login 403 200 200 200      | 404

admin:tasks_{exporttask,execution}_changelist admin:notifications_delivery_changelist \
admin:tasks_{schedulerprocess,pause}_{changelist,history} \
                                                         | GET POST  | login 200 200 200 200
admin:tasks_{exporttask,execution}_history admin:notifications_delivery_history \
                                                         | GET POST  | login 200 200 200 200      | index
admin:tasks_{exporttask,execution}_change admin:notifications_delivery_change \
                                                         | GET       | login 200 200 200 200      | index
admin:tasks_execution_change admin:notifications_delivery_change admin:tasks_{schedulerprocess,pause}_change \
                                                         | POST      | login 403 403 403 403
admin:tasks_{schedulerprocess,pause}_change              | GET       | login 200 200 200 200
admin:{datasources_datasource,notifications_channel,notifications_notificationrule,tasks_download}_changelist \
admin:notifications_channel_history                      | GET POST  | login 403 200 200 200
admin:{datasources_datasource,notifications_notificationrule,tasks_download}_history \
                                                         | GET POST  | login 403 200 200 200      | all:index
admin:{datasources_datasource,notifications_notificationrule,tasks_download}_change \
                                                         | GET       | login 403 200 200 200      | index
admin:notifications_channel_change                       | GET       | login 403 200 200 200
admin:{datasources_datasource,notifications_channel}_change | POST   | login 403 403 403 away
admin:tasks_download_change                              | POST      | login 403 403 403 403
admin:tasks_execution_{new_link,revoke}                  | GET       | login 403 200 200 200      | all:404
admin:tasks_execution_{new_link,revoke}                  | POST      | login 403 away away away   | all:404
admin:tasks_exporttask_{run,backfill}                    | GET       | login 403 200 200 200      | all:404
admin:tasks_exporttask_run                               | POST      | login 403 away away away   | all:404
admin:tasks_exporttask_backfill                          | POST      | login 403 200 200 200      | all:404  # asks first
admin:tasks_exporttask_copy                              | GET POST  | login 403 403 away away    | all:404
admin:tasks_exporttask_restore                           | GET       | login 403 403 200 200      | all:404
admin:tasks_exporttask_restore                           | POST      | login 403 403 away away    | all:404
admin:tasks_exporttask_cron                              | GET       | login 403 403 200 200
admin:tasks_exporttask_cron                              | POST      | login 405 405 405 405
admin:tasks_exporttask_{preview_message,test_message}    | GET       | login 405 405 405 405
admin:tasks_exporttask_preview_message                   | POST      | login 403 403 200 200
admin:tasks_exporttask_test_message                      | POST      | login 403 403 403 200
admin:tasks_execution_{watch,live}                        | POST      | login 405 405 405 405
admin:tasks_execution_watch                              | GET       | login 200 200 200 200
admin:tasks_execution_live                               | GET       | login 200 200 200 200      | 404
admin:tasks_execution_{cancel,run_again,send_again}      | GET       | login 405 405 405 405
admin:tasks_execution_{cancel,run_again,send_again}      | POST      | login 403 away away away   | 404
admin:tasks_exporttask_add admin:notifications_notificationrule_add \
                                                         | GET       | login 403 403 200 200
admin:tasks_exporttask_add admin:notifications_notificationrule_add \
                                                         | POST      | login 403 403 away away    | 200
admin:tasks_exporttask_change admin:notifications_notificationrule_change \
                                                         | POST      | login 403 403 away away    | index
admin:tasks_exporttask_delete admin:notifications_notificationrule_delete \
                                                         | GET       | login 403 403 200 200      | index
admin:tasks_exporttask_delete admin:notifications_notificationrule_delete \
                                                         | POST      | login 403 403 away away    | index
admin:tasks_exporttask_{preview,check,schema}            | POST      | login 403 403 200 200      | 404
admin:tasks_exporttask_{preview,check,schema}            | GET       | login 405 405 405 405

token                                                    | OPTIONS POST | 200 200 200 200 200
token-refresh                                            | OPTIONS   | 200 200 200 200 200
token-refresh                                            | POST      | 401 401 401 401 401  # it is none
api-{status,schema}                                      | GET OPTIONS | 200 200 200 200 200
api-docs                                                 | GET       | 200 200 200 200 200
api/                                                     | *         | 404 404 404 404 404
{datasource,channel}-{list,detail,test} task-{list,detail,test,backfill,execute} \
execution-{list,detail,cancel,download,rerun,resend}     | OPTIONS   | 401 200 200 200 200
{datasource,channel}-list                                | GET       | 401 403 200 200 200
{datasource,channel}-list                                | POST      | 401 403 403 403 201
datasource-detail                                        | GET       | 401 403 200 200 200        | 404
channel-detail                                           | GET       | 401 403 200 200 200
{datasource,channel}-detail                              | PUT PATCH | 401 403 403 403 200
datasource-detail                                        | DELETE    | 401 403 403 403 409  # in use
channel-detail                                           | DELETE    | 401 403 403 403 204
datasource-test                                          | POST      | 401 403 200 200 200        | 404
channel-test                                             | POST      | 401 403 403 403 200
task-list execution-list                                 | GET       | 401 200 200 200 200
task-list                                                | POST      | 401 403 403 201 201        | 400
task-detail execution-detail execution-download          | GET       | 401 200 200 200 200        | 404
task-detail                                              | PUT PATCH | 401 403 403 200 200        | 404
task-detail                                              | DELETE    | 401 403 403 204 204        | 404
task-test                                                | POST      | 401 403 200 200 200        | 404
task-{backfill,execute} execution-{cancel,rerun,resend}  | POST      | 401 403 202 202 202        | 404
{datasource,channel}-{list,detail,test} task-{list,detail,test,backfill,execute} \
execution-{list,detail,cancel,download,rerun,resend}     | *         | 401 405 405 405 405
"""

# list or form of the admin | its actions and buttons | for whom they act
ACTIONS = """
tasks_exporttask               | run_now run backfill                               | operator editor admin
tasks_exporttask               | copy                                               |
tasks_exporttask               | enable disable save_and_run delete_selected        | editor admin
tasks_execution                | cancel run_again send_again send_again_to_everybody revoke_links new_link revoke | operator editor admin
notifications_delivery         | send_again send_again_to_everybody cancel          | operator editor admin
notifications_notificationrule | delete_selected                                    | editor admin
notifications_channel          | send_tests save_and_test delete_selected           | admin
datasources_datasource         | test_connections                                   | operator editor admin
datasources_datasource         | save_and_test delete_selected                      | admin
auth_user                      | delete_selected                                    | admin
auth_group                     | delete_selected                                    | admin
access_apikey                  | revoke                                             | admin
tasks_pause                    | resume                                             | admin
access_auditevent tasks_download tasks_schedulerprocess | |
"""
